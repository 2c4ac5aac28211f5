"""Findings in the lung: atelectasis, infection, edema, masses and fibrosis.

A painter takes the scene, the patient's and the film's generator and the severity in 0..1. It
returns one array [size, size] for each box: float32 for a change in attenuation, or bool for the
extent of a change that the painter has already applied.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from agcnn_jax.data_prep.phantom import anatomy
from agcnn_jax.data_prep.phantom.anatomy import SIDES, lung_point
from agcnn_jax.data_prep.phantom.canvas import Array, smoothstep
from agcnn_jax.data_prep.phantom.film import Scene

Random = np.random.Generator
# A box contains the pixels whose change exceeds this share of the lesion's largest change.
BOX_LEVEL = 0.2


def pick_side(where: Random) -> int:
    """Draw the side of a unilateral finding, always the first draw from the patient's generator."""
    return 1 if where.random() < 0.45 else -1


def fill_air(scene: Scene, share: Array) -> Array:
    """Replace `share` (0..1) of the air in `scene.air`; return the change in attenuation."""
    change = scene.air * np.clip(share, 0, 1)
    scene.air = scene.air - change
    return change


def visible_mask(change: Array) -> Array:
    """Return the pixels whose change belongs to the finding, bool [size, size]."""
    strength = np.abs(change)
    return strength > max(BOX_LEVEL * float(strength.max()), 0.004)


def air_bronchograms(scene: Scene, share: Array, depth: float) -> Array:
    """Return air-filled bronchi in an opacity: the paths of the vessels, dark instead of bright."""
    return -np.float32(depth) * np.minimum(scene.vessels, 0.2) * share


def atelectasis(scene: Scene, where: Random, rng: Random, severity: float) -> list[Array]:
    """Paint plate atelectasis, or a wedge from the hilum to an elevated hemidiaphragm."""
    side, body, canvas = pick_side(where), scene.body, scene.canvas
    if where.random() < 0.55:
        x, y = lung_point(body, side, where.uniform(0.4, 0.7), where.uniform(0.72, 0.93))
        long, thick = 0.05 + 0.07 * severity, 0.009 + 0.014 * severity
        turn = side * where.uniform(-0.5, 0.25)
        share = canvas.ellipse(x, y, long, thick, turn, (1.6, 0.4))
        for offset in np.arange(where.integers(0, 3)) + 1:
            above = y - 0.035 * offset
            share += 0.7 * canvas.ellipse(x, above, long * 0.7, thick * 0.8, turn, (1.6, 0.4))
    else:
        hilum_x, hilum_y = anatomy.hilum(body, side)
        x, y = lung_point(body, side, where.uniform(0.55, 0.85), 0.96)
        spread = 0.035 + 0.07 * severity
        wedge = np.array([(hilum_x, hilum_y + 0.05), (x + spread, y), (x - spread, y + 0.02)])
        share = canvas.fill(wedge, 0.008)
    change = fill_air(scene, share * (0.2 + 0.45 * severity))
    raised = dataclasses.replace(body, dome_shift=(0.0, 0.0))
    strip = canvas.fill(anatomy.lung(raised, side)) - scene.lungs[side > 0]
    shown = visible_mask(change) | (strip > 0.5)
    scene.total += change
    return [shown]


def infiltration(scene: Scene, where: Random, rng: Random, severity: float) -> list[Array]:
    """Paint one or two ill-defined hazy opacities."""
    changes = []
    side = pick_side(where)
    for _ in range(1 + (where.random() < 0.5)):
        x, y = lung_point(scene.body, side, where.uniform(0.35, 0.75), where.uniform(0.35, 0.9))
        rx, ry = (0.06 + 0.06 * severity) * where.uniform(0.8, 1.2, 2)
        patch = scene.canvas.gaussian(x, y, 0.65 * rx, 0.65 * ry, where.uniform(0, 3))
        rough = 0.75 + 0.35 * scene.canvas.texture(rng, 0.03)
        changes.append(fill_air(scene, patch * rough * (0.19 + 0.31 * severity)))
        side = -side
    return changes


def pneumonia(scene: Scene, where: Random, rng: Random, severity: float) -> list[Array]:
    """Paint a patchy lobar opacity with air bronchograms."""
    side = pick_side(where)
    v = where.choice([0.3, 0.62, 0.82], p=[0.2, 0.35, 0.45])
    x, y = lung_point(scene.body, side, where.uniform(0.45, 0.65), v)
    lobe = scene.canvas.ellipse(
        x, y, 0.11 + 0.05 * severity, 0.07 + 0.05 * severity, edge=(1.5, 0.4)
    )
    patchy = np.clip(0.75 + 0.6 * scene.canvas.texture(rng, 0.05), 0.1, 1.2)
    change = fill_air(scene, lobe * patchy * (0.3 + 0.36 * severity))
    return [change + air_bronchograms(scene, lobe, 1.5)]


def consolidation(scene: Scene, where: Random, rng: Random, severity: float) -> list[Array]:
    """Paint a dense, homogeneous opacity, often bounded by a fissure."""
    side, canvas = pick_side(where), scene.canvas
    v = where.choice([0.2, 0.55, 0.85], p=[0.2, 0.25, 0.55])
    x, y = lung_point(scene.body, side, where.uniform(0.45, 0.7), v)
    rx, ry = 0.1 + 0.06 * severity, 0.075 + 0.06 * severity
    uneven = 1 + 0.25 * canvas.texture(rng, 0.13) + 0.15 * canvas.texture(rng, 0.05)
    lobe = canvas.ellipse(x, y, rx, ry, edge=(1.5, 0.4), warp=np.maximum(uneven, 0.2))
    if where.random() < 0.45:
        # A fissure bounds the opacity sharply above or below.
        side_of_fissure = int(where.choice(SIDES))
        slope = where.uniform(-0.3, 0.3) * side
        off = canvas.y - np.float32(y) - slope * (canvas.x - np.float32(x))
        edge = 0.7 * ry * side_of_fissure
        lobe = lobe * smoothstep(
            off, edge + 0.006 * side_of_fissure, edge - 0.006 * side_of_fissure
        )
    change = fill_air(scene, lobe * (0.24 + 0.46 * severity))
    return [change + air_bronchograms(scene, lobe, 0.8)]


def mass(scene: Scene, where: Random, rng: Random, severity: float) -> list[Array]:
    """Paint a lobulated opacity of 3 cm or more."""
    side = pick_side(where)
    x, y = lung_point(scene.body, side, where.uniform(0.35, 0.8), where.uniform(0.2, 0.85))
    radius = 0.042 + 0.045 * severity
    lobed = 1 + 0.22 * scene.canvas.texture(rng, 0.12)
    other = radius * where.uniform(0.8, 1.15)
    inside = scene.canvas.ellipse(x, y, radius, other, edge=(1.12, 0.35), warp=lobed)
    return [inside * np.float32(0.24 + 0.2 * severity)]


def nodule(scene: Scene, where: Random, rng: Random, severity: float) -> list[Array]:
    """Paint round opacities of less than 3 cm, each well under 1 % of the film."""
    changes = []
    for _ in range(1 + where.geometric(0.7) - 1 if where.random() < 0.35 else 1):
        side = 1 if where.random() < 0.5 else -1
        x, y = lung_point(scene.body, side, where.uniform(0.35, 0.88), where.uniform(0.15, 0.9))
        radius = 0.021 + 0.016 * severity * where.uniform(0.7, 1.0)
        other = radius * where.uniform(0.85, 1.15)
        inside = scene.canvas.ellipse(x, y, radius, other, edge=(1.15, 0.3))
        changes.append(inside * np.float32(0.46 + 0.32 * severity))
    return changes


def edema(scene: Scene, where: Random, rng: Random, severity: float) -> list[Array]:
    """Paint perihilar haze, cephalisation and Kerley B lines."""
    body, canvas = scene.body, scene.canvas
    haze = np.zeros_like(canvas.x)
    for side in SIDES:
        x, y = anatomy.hilum(body, side)
        haze += canvas.gaussian(x + side * 0.05, y + 0.06, 0.1, 0.13)
    rough = 0.85 + 0.2 * canvas.texture(rng, 0.035)
    change = fill_air(scene, np.minimum(haze, 1) * rough * (0.1 + 0.34 * severity))
    # Cephalisation: the vessels of the upper lobes are distended.
    change += (
        (0.15 + 0.6 * severity) * canvas.blur(scene.vessels, 0.004) * smoothstep(canvas.y, 0.5, 0.3)
    )
    lines = []
    for side in SIDES:
        for v in rng.uniform(0.7, 0.98, int(4 + 8 * severity)):
            x, y = lung_point(body, side, rng.uniform(0.93, 0.99), v)
            lines.append(np.array([(x, y), (x - side * rng.uniform(0.025, 0.05), y + 0.003)]))
    change += 0.12 * canvas.strokes(lines, 0.004, soften=0.002) * (scene.lungs[0] + scene.lungs[1])
    return [change]


def fibrosis(scene: Scene, where: Random, rng: Random, severity: float) -> list[Array]:
    """Paint reticular opacities at the bases, sometimes at the apices."""
    body, canvas = scene.body, scene.canvas
    net = 1 - np.minimum(np.abs(canvas.texture(rng, 0.03)), 1)
    net = 0.55 * net**2 + 0.45 * (1 - np.minimum(np.abs(canvas.texture(rng, 0.04)), 1)) ** 2
    upper = where.random() < 0.25
    apical = smoothstep(canvas.y, body.apex + 0.22, body.apex + 0.05)
    basal = smoothstep(canvas.y, body.dome - 0.28 - 0.08 * severity, body.dome)
    core = canvas.blur(scene.lungs[0] + scene.lungs[1], 0.04)
    edge = 0.35 + 0.65 * smoothstep(core, 1.0, 0.6)
    share = net * (apical if upper else basal) * edge * (1.7 + 1.0 * severity)
    return [fill_air(scene, share)]
