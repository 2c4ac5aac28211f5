"""The attenuation of soft tissue, mediastinum, bones, vessels and gas.

Every function returns float32 [size, size] in the units of `film`.
"""

from __future__ import annotations

import cv2
import numpy as np

from agcnn_jax.data_prep.phantom import anatomy
from agcnn_jax.data_prep.phantom.anatomy import SIDES, Body
from agcnn_jax.data_prep.phantom.canvas import Array, Canvas, smoothstep, spline
from agcnn_jax.data_prep.phantom.vessels import vessel_tree


def soft_tissue(canvas: Canvas, body: Body) -> Array:
    """Return trunk, neck and arms; the trunk is an elliptic cylinder, thinner towards its sides."""
    m, w, a = body.middle, body.half_width, body.apex
    skin = 0.03 + 0.07 * body.fat
    half = [
        (0.10, -0.12), (0.085, a - 0.13), (0.088, a - 0.085), (0.15, a - 0.05), (0.25, a - 0.028),
        (w + 0.06, a), (w + 0.135, a + 0.045), (w + 0.15 + 0.3 * skin, a + 0.12),
        (w + 0.1 + skin, a + 0.2), (w + 0.055 + skin, a + 0.3), (w + 0.035 + skin, 0.62),
        (w + 0.025 + skin, 0.8), (w + 0.04 + 1.2 * skin, 1.12),
    ]  # fmt: skip
    right = [(m - x, y) for x, y in half]
    left = [(m + x, y) for x, y in reversed(half)]
    trunk = canvas.fill(spline(np.array(right + left), 4))
    lean = 0.03 + 0.09 * body.arms
    arms = np.zeros_like(canvas.x)
    for side in SIDES:
        at = m + side * (w + 0.1 + skin)
        arm = [
            (at - side * 0.06, a + 0.04), (at + side * 0.04, a + 0.06),
            (at + side * (0.07 + lean), a + 0.3), (at + side * (0.09 + 1.6 * lean), 1.0),
            (at + side * (0.0 + 1.6 * lean), 1.0), (at + side * (-0.04 + lean), a + 0.33),
        ]  # fmt: skip
        arms += canvas.fill(spline(np.array(arm), 4))
    across = np.square((canvas.x - np.float32(m)) * np.float32(1 / (w + 0.12 + skin)))
    depth = trunk * (0.3 + 0.7 * np.sqrt(np.maximum(1 - across, 0)))
    depth *= 0.3 + 0.7 * smoothstep(canvas.blur(trunk, 0.03), 0.4, 1.0)
    belly = 0.92 + 0.12 * body.fat + 0.75 * smoothstep(canvas.y, 0.5, 0.88)
    depth *= belly * (1 - 0.35 * smoothstep(canvas.y, a + 0.12, a - 0.1))
    arms *= 0.1 + 0.42 * canvas.blur(arms, 0.02)
    return np.maximum(depth, arms) + 0.3 * np.minimum(depth, arms)


def mediastinum(canvas: Canvas, body: Body, lungs: Array) -> Array:
    """Return superior mediastinum, trachea and main bronchi, relative to soft tissue."""
    m, a = body.middle, body.apex
    carina = a + 0.30 * (body.dome - a)
    upper = canvas.fill(
        np.array(
            [(m - 0.05, 0.0), (m - 0.055, a), (m - 0.07, carina - 0.03), (m - 0.05, carina + 0.1),
             (m + 0.05, carina + 0.1), (m + 0.075, carina - 0.03), (m + 0.058, a), (m + 0.05, 0.0)]
        ),
        0.008,
    )  # fmt: skip
    dense = upper * canvas.blur(lungs, 0.01) * 0.5
    trachea = [np.array([(m - 0.004, -0.02), (m - 0.004, a), (m - 0.012, carina)])]
    bronchi = [
        np.array([(m - 0.01, carina - 0.005), (m + side * 0.075 - 0.005, carina + 0.055)])
        for side in SIDES
    ]
    airway = canvas.strokes(trachea, 0.034, soften=0.006)
    airway = np.maximum(airway, 0.55 * canvas.strokes(bronchi, 0.02, soften=0.006))
    return dense - 0.3 * airway + 0.14 * canvas.gaussian(m, 0.6, 0.05, 0.25)


def bones(canvas: Canvas, body: Body) -> Array:
    """Return ribs, clavicles, scapulae, humeri and spine."""
    width = body.rib_width
    back, front = canvas.blank(), canvas.blank()
    paths = [rib for side in SIDES for rib in anatomy.posterior_ribs(body, side)]
    canvas.stroke(back, paths, width, 1.0)
    canvas.stroke(back, paths, width * 0.6, 0.6)
    paths = [rib for side in SIDES for rib in anatomy.anterior_ribs(body, side)]
    canvas.stroke(front, paths, width * 1.15, 0.8)
    canvas.stroke(front, paths, width * 0.65, 0.52)
    girdle, column = _shoulder_girdle(canvas, body), _spine(canvas, body)
    scale = body.bone / 255
    layers: Array = cv2.addWeighted(back, 0.15 * scale, front, 0.12 * scale, 0, dtype=cv2.CV_32F)
    layers += cv2.addWeighted(girdle, 0.27 * scale, column, 0.38 * scale, 0, dtype=cv2.CV_32F)
    return canvas.blur(layers, 0.0024)


def _shoulder_girdle(canvas: Canvas, body: Body) -> Array:
    """Return clavicles, scapulae and humeri, uint8 [size, size]."""
    girdle = canvas.blank()
    paths = [anatomy.clavicle(body, side) for side in SIDES]
    canvas.stroke(girdle, paths, 0.023, 1.0)
    canvas.stroke(girdle, paths, 0.012, 0.7)
    m, w, a = body.middle, body.half_width, body.apex
    for side in SIDES:
        edge = m + side * (0.88 * w + 0.03)
        scapula = [
            (edge, a + 0.05), (edge + side * 0.012, a + 0.16), (edge + side * 0.035, a + 0.27),
            (edge + side * 0.07, a + 0.17), (edge + side * 0.1, a + 0.045),
        ]  # fmt: skip
        canvas.stroke(girdle, [spline(np.array(scapula), closed=False)], 0.008, 0.5)
        joint = np.array([m + side * (w + 0.125), a + 0.035])
        humerus = joint + np.array([(0, 0), (side * 0.035, 0.12), (side * 0.06, 0.32)])
        canvas.stroke(girdle, [humerus], 0.036, 0.75)
        canvas.stroke(girdle, [humerus], 0.02, 0.5)
        canvas.stroke(girdle, [joint[None], joint[None] + 0.001], 0.062, 0.7)
    return girdle


def _spine(canvas: Canvas, body: Body) -> Array:
    """Return vertebral bodies, discs and spinous processes, uint8 [size, size]."""
    levels = np.linspace(0.0, 1.0, 23)
    x = anatomy.spine(body, levels)
    column = canvas.blank()
    discs = [
        np.array([(x[i] - h, levels[i]), (x[i] + h, levels[i])])
        for i, h in enumerate(np.linspace(0.026, 0.042, 23))
    ]
    canvas.stroke(column, [np.stack([x, levels], 1)], 0.066, 0.62)
    canvas.stroke(column, discs, 0.009, 0.42)
    spinous = [np.array([(x[i], y), (x[i], y + 0.018)]) for i, y in enumerate(levels + 0.012)]
    canvas.stroke(column, spinous, 0.013, 0.95)
    return column


def wall_lines(canvas: Canvas, body: Body) -> Array:
    """Return the ribs seen tangentially along the chest wall, a bright rim of both lungs."""
    rims = [anatomy.lung(body, side)[1:25] + np.array([side * 0.006, -0.003]) for side in SIDES]
    return canvas.strokes(rims, 0.012, 0.10, soften=0.0035)


def vessels(canvas: Canvas, body: Body, rng: np.random.Generator) -> Array:
    """Return the pulmonary vessels and the hila."""
    layer = canvas.blank()
    hila = np.zeros_like(canvas.x)
    for side in SIDES:
        for width, paths in vessel_tree(body, side, rng):
            canvas.stroke(layer, list(paths), width, min(1.0, 0.45 + width * 45))
        hila += canvas.gaussian(*anatomy.hilum(body, side), 0.019, 0.04, 0.25 * side)
    fine = canvas.blur(layer * np.float32(0.22 * body.vessels / 255), 0.0019)
    # Towards the pleura vessels become too thin for a film to resolve.
    m, y = body.middle, anatomy.hilum(body, 1)[1] + 0.04
    fine *= 0.3 + 0.7 * canvas.gaussian(m, y, 0.53 * body.half_width, 0.23)
    return fine + 0.13 * hila


def breasts(canvas: Canvas, body: Body, rng: np.random.Generator) -> Array:
    """Return breast shadows over the lung bases, with a sharp lower border, or pectoral muscles."""
    x_off, y_at = 0.7 * body.half_width, body.dome - 0.02 + 0.01 + 0.05 * rng.random()
    if body.breast == 0:
        y_at, rx, ry, dense = body.apex + 0.2, 0.1, 0.12, 0.035
    else:
        rx, ry = 0.13 + 0.035 * body.breast, 0.09 + 0.07 * body.breast
        dense = 0.1 + 0.13 * body.breast
    layer = np.zeros_like(canvas.x)
    for side in SIDES:
        at = body.middle + side * x_off
        layer += canvas.ellipse(at, y_at, rx, ry, 0.25 * side, (1.04, 0.9)) * (
            0.55 + 0.45 * smoothstep(canvas.y, y_at - ry, y_at + ry)
        )
    return np.float32(dense) * layer


def abdominal_gas(canvas: Canvas, body: Body, rng: np.random.Generator) -> Array:
    """Return the gastric bubble, some with an air-fluid level, and bowel gas."""
    layer = np.zeros_like(canvas.x)
    top = body.dome_top(1)
    if rng.random() < 0.7:
        x, y = body.middle + rng.uniform(0.08, 0.2), top + rng.uniform(0.035, 0.06)
        rx, ry = rng.uniform(0.03, 0.075), rng.uniform(0.015, 0.035)
        bubble = canvas.ellipse(x, y, rx, ry, edge=(1.15, 0.75))
        if rng.random() < 0.6:
            bubble *= smoothstep(canvas.y, y + 0.5 * ry, y + 0.3 * ry)
        layer += bubble * np.float32(rng.uniform(0.2, 0.42))
    for _ in range(rng.poisson(1.2)):
        x, y = body.middle + rng.uniform(-0.1, 0.3), top + rng.uniform(0.13, 0.33)
        gas = canvas.ellipse(
            x, y, rng.uniform(0.012, 0.045), rng.uniform(0.012, 0.045), edge=(1.3, 0.5)
        )
        layer += gas * np.float32(rng.uniform(0.08, 0.25))
    return layer
