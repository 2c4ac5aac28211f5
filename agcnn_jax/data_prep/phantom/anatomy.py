"""The thorax of a synthetic patient as outlines in film units.

Film units run from 0 to 1 from left to right (x) and from top to bottom (y). `side` is -1 for the
patient's right, which is on the left of the film, and +1 for the patient's left.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from agcnn_jax.data_prep.phantom.canvas import Array, spline

SIDES = (-1, 1)


@dataclasses.dataclass(frozen=True)
class Body:
    """Proportions of one patient on one film; lengths in film units.

    Attributes:
        middle: x of the spine.
        half_width: from the spine to the inner chest wall at the widest level.
        apex: y of the lung apices.
        dome: y of the top of the right hemidiaphragm.
        dome_drop: distance by which the left hemidiaphragm is lower.
        curvature: height of the domes above the costophrenic angles.
        taper: how pointed the upper thorax is.
        cardiothoracic: cardiothoracic ratio.
        heart_tilt: 0 for a vertical heart, 1 for a horizontal one.
        aortic_knob: radius of the aortic knob.
        air: depth of aerated lung, 1 on average.
        vessels: strength of the vascular markings.
        fat: amount of subcutaneous fat.
        breast: 0 for none, 1 for large breasts.
        bone: attenuation of bone.
        rib_slope: how steeply the ribs descend.
        rib_width: width of a rib.
        arms: abduction of the arms.
        scoliosis: lateral curvature of the spine.
        dome_shift: added to the y of the right and the left dome by atelectasis.
    """

    middle: float
    half_width: float
    apex: float
    dome: float
    dome_drop: float
    curvature: float
    taper: float
    cardiothoracic: float
    heart_tilt: float
    aortic_knob: float
    air: float
    vessels: float
    fat: float
    breast: float
    bone: float
    rib_slope: float
    rib_width: float
    arms: float
    scoliosis: float
    dome_shift: tuple[float, float] = (0.0, 0.0)

    def dome_top(self, side: int) -> float:
        """Return y of the top of the right (-1) or left (+1) hemidiaphragm."""
        return self.dome + self.dome_drop * (side > 0) + self.dome_shift[side > 0]

    def angle(self, side: int) -> float:
        """Return y of the right (-1) or left (+1) costophrenic angle."""
        return self.dome + self.dome_drop * (side > 0) + self.curvature


def draw_body(rng: np.random.Generator, age: float, female: bool) -> Body:
    """Draw a patient's proportions at full inspiration, on an upright PA film."""

    def about(mean: float, deviation: float) -> float:
        return float(mean + deviation * np.clip(rng.standard_normal(), -2.2, 2.2))

    return Body(
        middle=about(0.5, 0.008),
        half_width=about(0.295 if female else 0.315, 0.022),
        apex=about(0.145, 0.018),
        dome=about(0.62 if female else 0.635, 0.031),
        dome_drop=about(0.018, 0.012),
        curvature=about(0.105, 0.02),
        taper=about(3.0, 0.4),
        cardiothoracic=about(0.445 + 0.0006 * (age - 47), 0.03),
        heart_tilt=about(0.5 + 0.004 * (age - 47), 0.2),
        aortic_knob=about(0.037 + 0.0003 * (age - 47), 0.005),
        air=about(1.0, 0.06),
        vessels=about(1.0, 0.2),
        fat=about(0.5, 0.25),
        breast=max(0.0, about(0.6, 0.3)) if female else 0.0,
        bone=about(1.05 - 0.004 * (age - 47), 0.15),
        rib_slope=about(1.0, 0.13),
        rib_width=about(0.0185, 0.0018),
        arms=about(0.5, 0.3),
        scoliosis=about(0.0, 0.008),
    )


def spine(body: Body, y: Array) -> Array:
    """Return x of the spine at heights `y`."""
    return body.middle + body.scoliosis * np.sin((np.asarray(y) - 0.15) * 5.5)


def wall(body: Body, side: int, y: Array | float) -> Array:
    """Return x of the inner chest wall at heights `y`, constant above the apex."""
    t = np.clip((np.asarray(y) - body.apex) / (body.angle(side) - body.apex), 0, 1)
    reach = 0.44 + 0.56 * (1 - (1 - t) ** body.taper) ** 0.52
    return body.middle + side * body.half_width * (reach - 0.05 * np.maximum(t - 0.85, 0))


def lung(body: Body, side: int) -> Array:
    """Return the outline of a lung, float [66, 2], including the part behind the mediastinum.

    It runs down the chest wall (26 points), along the dome to the spine (22) and up again (18).
    """
    top, low = body.apex, body.angle(side)
    y_down = top + (low - top) * (np.linspace(0, 1, 26) ** 1.6)
    down = np.stack([wall(body, side, y_down), y_down], 1)
    u = np.linspace(1, 0.08, 22)
    along = np.stack(
        [
            body.middle
            + side * body.half_width * u * (down[-1, 0] - body.middle) / (side * body.half_width),
            dome(body, side, u),
        ],
        1,
    )
    v = np.linspace(1, 0, 18)
    y_up = top + (along[-1, 1] - top) * v
    reach = 0.44 - 0.34 * (1 - (1 - v) ** 3) ** 0.5
    up = np.stack([body.middle + side * body.half_width * reach, y_up], 1)
    return np.concatenate([down, along, up])


def dome(body: Body, side: int, u: Array | float) -> Array:
    """Return y of the diaphragm at `u`, from 0 at the spine to 1 at the chest wall."""
    u = np.asarray(u, float)
    top, low = body.dome_top(side), body.angle(side)
    lateral = (low - top) * (np.maximum(u - 0.48, 0) / 0.52) ** 2.3
    medial = 0.35 * body.curvature * (np.maximum(0.48 - u, 0) / 0.48) ** 2
    return top + lateral + medial


def lung_point(body: Body, side: int, u: float, v: float) -> tuple[float, float]:
    """Return a point in a lung; `u` runs from spine (0) to wall (1), `v` from apex to dome."""
    y = body.apex + v * (float(dome(body, side, u)) - body.apex)
    x = body.middle + u * (float(wall(body, side, y)) - body.middle)
    return x, y


def hilum(body: Body, side: int) -> tuple[float, float]:
    """Return the hilum of a lung; the left one is higher."""
    y = body.apex + (0.46 - 0.03 * (side > 0)) * (body.dome - body.apex)
    return body.middle + side * 0.21 * body.half_width, y


def heart(body: Body) -> Array:
    """Return the outline of the heart and great vessels, float [N, 2].

    It begins at the aortic knob and runs down the left border and up the right one. A third of the
    heart's width is right of the spine.
    """
    m, wide = body.middle, 2 * body.half_width * body.cardiothoracic
    right, left = 0.34 * wide, 0.66 * wide
    bottom = body.dome + 0.45 * body.curvature
    top = body.apex + 0.31 * (body.dome - body.apex)
    tall = bottom - top
    widest = bottom - (0.24 - 0.08 * body.heart_tilt) * tall
    points = [
        (m + 0.045, top - 0.02),
        (m + 0.052 + body.aortic_knob * 0.7, top + 0.04 * tall),
        (m + 0.052 + body.aortic_knob * 0.35, top + 0.16 * tall),
        (m + 0.062 + 0.17 * left, top + 0.28 * tall),
        (m + 0.42 * left + 0.03, top + 0.45 * tall),
        (m + 0.80 * left, top + 0.64 * tall),
        (m + left, widest),
        (m + 0.93 * left, bottom - 0.05 * tall),
        (m + 0.55 * left, bottom + 0.03),
        (m - 0.2 * right, bottom + 0.05),
        (m - 0.85 * right, bottom),
        (m - right, bottom - 0.22 * tall),
        (m - 0.86 * right, bottom - 0.45 * tall),
        (m - 0.052, top + 0.33 * tall),
        (m - 0.05, top + 0.05 * tall),
        (m - 0.045, top - 0.06),
    ]
    return spline(np.array(points))


def posterior_ribs(body: Body, side: int) -> Array:
    """Return the posterior parts of ribs 1 to 11, from spine to chest wall, float [11, 14, 2]."""
    number = np.arange(11)[:, None]
    start = body.apex - 0.012 + number * (body.dome - body.apex) * 0.107
    drop = (0.03 + 0.013 * np.minimum(number, 6)) * body.rib_slope
    s = np.linspace(0, np.pi / 2, 14)
    end = wall(body, side, start + drop) + side * 0.008
    base = body.middle + side * 0.032
    x = base + (end - base) * np.sin(s)
    y = start - 0.018 * np.sin(np.minimum(s * 2.6, np.pi)) + drop * (1 - np.cos(s))
    return np.stack([x, y], 2)


def anterior_ribs(body: Body, side: int) -> Array:
    """Return the anterior parts of ribs 1 to 7, from chest wall to cartilage, float [7, 10, 2]."""
    number = np.arange(7)[:, None]
    at_wall = posterior_ribs(body, side)[:7, -1]
    x_wall, y_wall = at_wall[:, :1], at_wall[:, 1:]
    s = np.linspace(0, 1, 10)
    end = body.middle + side * body.half_width * (0.36 + 0.035 * number)
    x = x_wall + (end - x_wall) * (1 - np.cos(s * np.pi / 2 * 0.96))
    fall = (0.075 + 0.006 * number) * body.rib_slope
    y = y_wall + fall * np.sin(s * np.pi / 2) - 0.012 * s**3
    return np.stack([x, y], 2)


def clavicle(body: Body, side: int) -> Array:
    """Return a clavicle, from the sternum to the shoulder, float [N, 2]."""
    m, w, a = body.middle, body.half_width, body.apex
    points = [(0.1, 0.075), (0.3, 0.062), (0.62, 0.02), (0.95, 0.006), (1.16, 0.02)]
    return spline(np.array([(m + side * u * w, a + v) for u, v in points]), closed=False)
