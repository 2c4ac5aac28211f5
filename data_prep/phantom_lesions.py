"""The 14 findings of ChestX-ray14, painted into a scene with their true boxes.

A finding acts twice: `reshape` changes the body before it is drawn (a wider heart, a raised or
flattened diaphragm), `paint` changes the attenuation afterwards. What fills alveoli takes the
place of air, so it stays within the lung and cannot exceed the density of soft tissue.

Place and side of a lesion belong to the patient (`where`), its extent to the film (`rng`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from data_prep import phantom_anatomy as anatomy
from data_prep.phantom_anatomy import SIDES, Body
from data_prep.phantom_canvas import Array, Canvas, rise
from data_prep.phantom_film import Scene

Random = np.random.Generator
Painter = Callable[[Scene, Random, Random, float], list[Array]]
# A box holds the pixels whose change exceeds this share of the lesion's largest change.
BOX_LEVEL = 0.2


def reshape(finding: str, body: Body, where: Random, severity: float) -> Body:
    """The body as a finding changes it; most findings leave it alone."""
    if finding == "Cardiomegaly":
        wide = max(body.cardiothoracic, 0.46) + 0.05 + 0.13 * severity
        return dataclasses.replace(body, cardiothoracic=wide, heart_tilt=body.heart_tilt + 0.2)
    if finding == "Emphysema":
        return dataclasses.replace(
            body,
            dome=body.dome + 0.02 + 0.045 * severity,
            curvature=body.curvature * (0.75 - 0.4 * severity),
            taper=body.taper + 0.9 * severity,
            air=body.air * (1.05 + 0.12 * severity),
            vessels=body.vessels * (0.8 - 0.4 * severity),
            cardiothoracic=body.cardiothoracic * (0.97 - 0.13 * severity),
        )
    if finding == "Atelectasis":
        shift = list(body.dome_shift)
        shift[_side(where) > 0] -= 0.008 + 0.035 * severity
        return dataclasses.replace(body, dome_shift=(shift[0], shift[1]))
    return body


def paint(finding: str, scene: Scene, where: Random, rng: Random, severity: float) -> Array:
    """Paint one finding into `scene`, changing it in place.

    Args:
        finding: one of `FINDINGS`.
        scene: the chest; `total` and `air` are changed.
        where: the patient's generator for this finding, fresh as for `reshape`.
        rng: the film's generator for this finding.
        severity: 0 barely visible, 1 gross.

    Returns:
        Boxes of the change, int [N, 4] as (xmin, ymin, xmax, ymax), half-open pixels in the film.
        N is 0 when nothing of it lies on the film.
    """
    return _boxes(scene, PAINTERS[finding](scene, where, rng, severity))


def _boxes(scene: Scene, changes: list[Array]) -> Array:
    """Apply changes of attenuation and return a box around each, int [N, 4]."""
    boxes = []
    for change in changes:
        if change.dtype == bool:
            shown = change
        else:
            scene.total += change
            strength = np.abs(change)
            shown = strength > max(BOX_LEVEL * float(strength.max()), 0.004)
        rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
        if len(rows):
            boxes.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    return np.array(boxes, int).reshape(-1, 4)


def _side(where: Random) -> int:
    """The side of a one-sided finding: always the patient's first draw."""
    return 1 if where.random() < 0.45 else -1


def _fill(scene: Scene, share: Array) -> Array:
    """Let something take `share` (0..1) of the air; the change in attenuation."""
    change = scene.air * np.clip(share, 0, 1)
    scene.air = scene.air - change
    return change


def _blob(scene: Scene, x: float, y: float, rx: float, ry: float, turn: float = 0.0) -> Array:
    """A Gaussian bump of height 1 whose radii are about `rx`, `ry`."""
    return np.exp(-1.2 * scene.canvas.disc(x, y, rx, ry, turn))


def _atelectasis(scene: Scene, where: Random, rng: Random, severity: float) -> list[Array]:
    side, body, canvas = _side(where), scene.body, scene.canvas
    if where.random() < 0.55:
        x, y = anatomy.place(body, side, where.uniform(0.4, 0.7), where.uniform(0.72, 0.93))
        long, thick = 0.05 + 0.07 * severity, 0.009 + 0.014 * severity
        turn = side * where.uniform(-0.5, 0.25)
        share = rise(canvas.disc(x, y, long, thick, turn), 1.6, 0.4)
        for offset in np.arange(where.integers(0, 3)) + 1:
            share += 0.7 * rise(
                canvas.disc(x, y - 0.035 * offset, long * 0.7, thick * 0.8, turn), 1.6, 0.4
            )
    else:
        hilum_x, hilum_y = anatomy.hilum(body, side)
        x, y = anatomy.place(body, side, where.uniform(0.55, 0.85), 0.96)
        spread = 0.035 + 0.07 * severity
        wedge = np.array([(hilum_x, hilum_y + 0.05), (x + spread, y), (x - spread, y + 0.02)])
        share = canvas.fill(wedge, 0.008)
    change = _fill(scene, share * (0.5 + 0.4 * severity))
    raised = dataclasses.replace(body, dome_shift=(0.0, 0.0))
    strip = canvas.fill(anatomy.lung(raised, side)) - scene.lungs[side > 0]
    shown = (np.abs(change) > BOX_LEVEL * np.abs(change).max()) | (strip > 0.5)
    scene.total += change
    return [shown]


def _cardiomegaly(scene: Scene, where: Random, rng: Random, severity: float) -> list[Array]:
    outline = anatomy.heart(scene.body)
    top = np.quantile(outline[:, 1], 0.28)
    inside = scene.canvas.fill(outline) > 0.5
    return [inside & (scene.canvas.y > top) & (scene.canvas.y < scene.body.dome + 0.05)]


def _effusion(scene: Scene, where: Random, rng: Random, severity: float) -> list[Array]:
    first, both = _side(where), where.random() < 0.25
    changes = []
    for side in SIDES if both else (first,):
        amount = severity if side == first else severity * 0.5
        body, canvas = scene.body, scene.canvas
        u = (canvas.x - np.float32(body.middle)) * np.float32(side / body.half_width)
        level = body.angle(side) - 0.04 - 0.055 * amount - 0.22 * amount**2
        surface = level - (0.02 + 0.06 * amount) * np.clip(u, 0, 1.1) ** 3 + 0.02 * amount
        soft = 0.008 + 0.02 * where.random()
        fluid = rise(canvas.y - surface, -soft, soft) * scene.lungs[side > 0]
        changes.append(_fill(scene, 0.93 * fluid))
    return changes


def _infiltration(scene: Scene, where: Random, rng: Random, severity: float) -> list[Array]:
    changes = []
    side = _side(where)
    for _ in range(1 + (where.random() < 0.5)):
        x, y = anatomy.place(scene.body, side, where.uniform(0.35, 0.75), where.uniform(0.35, 0.9))
        rx, ry = (0.06 + 0.06 * severity) * where.uniform(0.8, 1.2, 2)
        patch = _blob(scene, x, y, rx, ry, where.uniform(0, 3))
        rough = 0.75 + 0.35 * scene.canvas.texture(rng, 0.03)
        changes.append(_fill(scene, patch * rough * (0.3 + 0.3 * severity)))
        side = -side
    return changes


def _mass(scene: Scene, where: Random, rng: Random, severity: float) -> list[Array]:
    side = _side(where)
    x, y = anatomy.place(scene.body, side, where.uniform(0.35, 0.8), where.uniform(0.2, 0.85))
    radius = 0.042 + 0.045 * severity
    lobed = 1 + 0.22 * scene.canvas.texture(rng, 0.12)
    inside = scene.canvas.disc(x, y, radius, radius * where.uniform(0.8, 1.15)) * lobed
    depth = rise(inside, 1.12, 0.35) * (0.24 + 0.14 * severity)
    return [depth.astype(np.float32)]


def _nodule(scene: Scene, where: Random, rng: Random, severity: float) -> list[Array]:
    changes = []
    for _ in range(1 + where.geometric(0.7) - 1 if where.random() < 0.35 else 1):
        side = 1 if where.random() < 0.5 else -1
        x, y = anatomy.place(scene.body, side, where.uniform(0.35, 0.88), where.uniform(0.15, 0.9))
        radius = 0.017 + 0.016 * severity * where.uniform(0.7, 1.0)
        inside = scene.canvas.disc(x, y, radius, radius * where.uniform(0.85, 1.15))
        changes.append(rise(inside, 1.15, 0.3) * np.float32(0.2 + 0.16 * severity))
    return changes


def _bronchograms(scene: Scene, share: Array, depth: float) -> Array:
    """Air left in the bronchi of a filled lung: the vessels' paths, dark instead of bright."""
    return -np.float32(depth) * np.minimum(scene.vessels, 0.2) * share


def _pneumonia(scene: Scene, where: Random, rng: Random, severity: float) -> list[Array]:
    side = _side(where)
    v = where.choice([0.3, 0.62, 0.82], p=[0.2, 0.35, 0.45])
    x, y = anatomy.place(scene.body, side, where.uniform(0.45, 0.65), v)
    lobe = rise(scene.canvas.disc(x, y, 0.11 + 0.05 * severity, 0.07 + 0.05 * severity), 1.5, 0.4)
    patchy = np.clip(0.75 + 0.6 * scene.canvas.texture(rng, 0.05), 0.1, 1.2)
    change = _fill(scene, lobe * patchy * (0.42 + 0.33 * severity))
    return [change + _bronchograms(scene, lobe, 1.5)]


def _consolidation(scene: Scene, where: Random, rng: Random, severity: float) -> list[Array]:
    side = _side(where)
    v = where.choice([0.2, 0.55, 0.85], p=[0.2, 0.25, 0.55])
    x, y = anatomy.place(scene.body, side, where.uniform(0.45, 0.7), v)
    rx, ry = 0.1 + 0.06 * severity, 0.075 + 0.06 * severity
    uneven = 1 + 0.25 * scene.canvas.texture(rng, 0.15)
    lobe = rise(scene.canvas.disc(x, y, rx, ry) * uneven, 1.3, 0.55)
    # A fissure cuts the opacity off sharply on one side.
    edge = y + where.choice(SIDES) * 0.45 * ry
    slope = where.uniform(-0.3, 0.3) * side
    cut = (scene.canvas.y - np.float32(edge)) - slope * (scene.canvas.x - np.float32(x))
    lobe = lobe * (rise(cut, 0.006, -0.006) if edge > y else rise(cut, -0.006, 0.006))
    change = _fill(scene, lobe * (0.62 + 0.28 * severity))
    return [change + _bronchograms(scene, lobe, 0.8)]


def _edema(scene: Scene, where: Random, rng: Random, severity: float) -> list[Array]:
    body, canvas = scene.body, scene.canvas
    haze = np.zeros_like(canvas.x)
    for side in SIDES:
        x, y = anatomy.hilum(body, side)
        haze += _blob(scene, x + side * 0.05, y + 0.06, 0.15, 0.2)
    rough = 0.85 + 0.2 * canvas.texture(rng, 0.035)
    change = _fill(scene, np.minimum(haze, 1) * rough * (0.22 + 0.38 * severity))
    # Cephalisation: the upper vessels swell.
    change += (0.4 + 0.6 * severity) * canvas.blur(scene.vessels, 0.004) * rise(canvas.y, 0.5, 0.3)
    lines = []
    for side in SIDES:
        for v in rng.uniform(0.7, 0.98, int(4 + 8 * severity)):
            x, y = anatomy.place(body, side, rng.uniform(0.93, 0.99), v)
            lines.append(np.array([(x, y), (x - side * rng.uniform(0.025, 0.05), y + 0.003)]))
    change += 0.12 * canvas.strokes(lines, 0.004, soften=0.002) * (scene.lungs[0] + scene.lungs[1])
    return [change]


def _emphysema(scene: Scene, where: Random, rng: Random, severity: float) -> list[Array]:
    bullae = np.zeros_like(scene.canvas.x)
    for _ in range(where.poisson(2 + 3 * severity)):
        x, y = anatomy.place(
            scene.body, int(where.choice(SIDES)), where.uniform(0.4, 0.9), where.uniform(0.1, 0.6)
        )
        bullae += rise(scene.canvas.disc(x, y, *where.uniform(0.03, 0.06, 2)), 1.2, 0.6)
    scene.total -= 0.05 * np.minimum(bullae, 1) * (scene.lungs[0] + scene.lungs[1])
    return [scene.lungs[0] + scene.lungs[1] > 0.5]


def _fibrosis(scene: Scene, where: Random, rng: Random, severity: float) -> list[Array]:
    body, canvas = scene.body, scene.canvas
    net = 1 - np.minimum(np.abs(canvas.texture(rng, 0.021)), 1)
    net = 0.55 * net**2 + 0.45 * (1 - np.minimum(np.abs(canvas.texture(rng, 0.034)), 1)) ** 2
    upper = where.random() < 0.25
    apical = rise(canvas.y, body.apex + 0.22, body.apex + 0.05)
    basal = rise(canvas.y, body.dome - 0.28 - 0.08 * severity, body.dome)
    core = canvas.blur(scene.lungs[0] + scene.lungs[1], 0.04)
    edge = 0.35 + 0.65 * rise(core, 1.0, 0.6)
    share = net * (apical if upper else basal) * edge * (0.75 + 0.6 * severity)
    return [_fill(scene, share)]


def _shrunk(scene: Scene, side: int, gap: Array) -> Array:
    """The lung's outline with its chest wall drawn in by `gap`, float [26] in film units."""
    outline = anatomy.lung(scene.body, side).copy()
    outline[:26, 0] -= side * gap
    outline[:26, 1] += 0.7 * gap * (np.linspace(1, 0, 26) ** 2)
    return outline


def _pneumothorax(scene: Scene, where: Random, rng: Random, severity: float) -> list[Array]:
    side, canvas = _side(where), scene.canvas
    s = np.linspace(0, 1, 26)
    gap = (0.026 + 0.075 * severity) * (1 - 0.75 * s**1.2)
    inner = _shrunk(scene, side, gap)
    collapsed = canvas.fill(inner, 0.003)
    space = np.clip(scene.lungs[side > 0] - collapsed, 0, 1)
    line = canvas.strokes([inner[1:24]], 0.0045, soften=0.0016) * scene.lungs[side > 0]
    change = -(0.5 * scene.vessels + (0.16 + 0.1 * severity) * scene.air) * space + 0.13 * line
    change += 0.06 * severity * scene.air * collapsed
    gone = change + 0
    scene.air = scene.air * (1 + 0.16 * space)
    return [gone]


def _pleural_thickening(scene: Scene, where: Random, rng: Random, severity: float) -> list[Array]:
    side, canvas, body = _side(where), scene.canvas, scene.body
    s = np.linspace(0, 1, 26)
    lumps = np.interp(s, np.linspace(0, 1, 8), rng.uniform(0.6, 1.3, 8))
    if where.random() < 0.4:
        extent = np.exp(-np.square(s / 0.3))
        thick = 0.022 + 0.028 * severity
    else:
        extent = np.exp(-np.square((s - where.uniform(0.55, 0.85)) / 0.22))
        thick = 0.014 + 0.022 * severity
    inner = _shrunk(scene, side, thick * extent * lumps)
    band = np.clip(scene.lungs[side > 0] - canvas.fill(inner, 0.002), 0, 1)
    along = rise(canvas.y, body.apex - 0.1, body.apex)
    return [_fill(scene, band * along * 0.9) + 0.08 * band]


def _hernia(scene: Scene, where: Random, rng: Random, severity: float) -> list[Array]:
    body, canvas = scene.body, scene.canvas
    radius = 0.05 + 0.035 * severity
    x, y = body.middle + where.uniform(-0.01, 0.05), body.dome - 0.4 * radius
    inside = canvas.disc(x, y, radius * where.uniform(1.0, 1.25), radius)
    sac = rise(inside, 1.1, 0.8) * (0.13 + 0.08 * severity)
    gas = rise(inside, 0.85, 0.6) * rise(canvas.y, y + 0.004, y - 0.004)
    change = sac - (0.25 + 0.1 * severity) * gas
    return [change + _fill(scene, 0.6 * rise(inside, 1.1, 0.8))]


PAINTERS: dict[str, Painter] = {
    "Atelectasis": _atelectasis,
    "Cardiomegaly": _cardiomegaly,
    "Effusion": _effusion,
    "Infiltration": _infiltration,
    "Mass": _mass,
    "Nodule": _nodule,
    "Pneumonia": _pneumonia,
    "Pneumothorax": _pneumothorax,
    "Consolidation": _consolidation,
    "Edema": _edema,
    "Emphysema": _emphysema,
    "Fibrosis": _fibrosis,
    "Pleural_Thickening": _pleural_thickening,
    "Hernia": _hernia,
}
FINDINGS = tuple(PAINTERS)


def confusers(scene: Scene, rng: Random) -> None:
    """What a report does not mention: granulomas, nipples, scars, companion shadows."""
    canvas, body = scene.canvas, scene.body
    if rng.random() < 0.12:
        x, y = anatomy.place(body, int(rng.choice(SIDES)), *rng.uniform([0.3, 0.2], [0.85, 0.9]))
        radius = rng.uniform(0.006, 0.011)
        scene.total += rise(canvas.disc(x, y, radius, radius), 1.2, 0.4) * rng.uniform(0.15, 0.4)
    if rng.random() < 0.10:
        for side in SIDES:
            x, y = anatomy.place(body, side, 0.62, 0.86 + 0.05 * rng.random())
            scene.total += rise(canvas.disc(x, y, 0.014, 0.012), 1.2, 0.4) * rng.uniform(0.06, 0.14)
    if rng.random() < 0.12:
        x, y = anatomy.place(body, int(rng.choice(SIDES)), *rng.uniform([0.4, 0.1], [0.8, 0.9]))
        band = canvas.disc(x, y, rng.uniform(0.03, 0.06), 0.005, rng.uniform(-0.7, 0.7))
        scene.total += _fill(scene, 0.35 * rise(band, 1.5, 0.4))
    if rng.random() < 0.25:
        x, y = anatomy.place(body, int(rng.choice(SIDES)), *rng.uniform([0.3, 0.5], [0.7, 0.9]))
        scene.total += _fill(scene, rng.uniform(0.08, 0.2) * _blob(scene, x, y, 0.1, 0.08))


def severity(rng: Random) -> float:
    """How marked a finding is: mostly moderate, some subtle, few gross; 0..1."""
    return float(rng.beta(2.0, 1.8))


def outline_canvas(size: int) -> Canvas:
    """An upright canvas, for measuring outlines in tests."""
    return Canvas(size)
