"""Findings of the pleura: effusion, pneumothorax and thickening.

The painters have the interface that `opacities` describes.
"""

from __future__ import annotations

import numpy as np

from agcnn_jax.data_prep.phantom import anatomy
from agcnn_jax.data_prep.phantom.anatomy import SIDES
from agcnn_jax.data_prep.phantom.canvas import Array, smoothstep
from agcnn_jax.data_prep.phantom.film import Scene
from agcnn_jax.data_prep.phantom.opacities import fill_air, pick_side

Random = np.random.Generator


def effusion(scene: Scene, where: Random, rng: Random, severity: float) -> list[Array]:
    """Paint fluid that blunts a costophrenic angle or forms a meniscus."""
    first, both = pick_side(where), where.random() < 0.25
    changes = []
    for side in SIDES if both else (first,):
        amount = severity if side == first else severity * 0.5
        body, canvas = scene.body, scene.canvas
        u = (canvas.x - np.float32(body.middle)) * np.float32(side / body.half_width)
        level = body.angle(side) - 0.02 - 0.05 * amount - 0.22 * amount**2
        surface = level - (0.02 + 0.06 * amount) * np.clip(u, 0, 1.1) ** 3 + 0.02 * amount
        soft = 0.008 + 0.02 * where.random()
        fluid = smoothstep(canvas.y - surface, -soft, soft) * scene.lungs[side > 0]
        changes.append(fill_air(scene, 0.93 * fluid))
    return changes


def _shrunk(scene: Scene, side: int, gap: Array) -> Array:
    """Return a lung's outline, float [66, 2], moved off the chest wall by `gap`, float [26]."""
    outline = anatomy.lung(scene.body, side).copy()
    outline[:26, 0] -= side * gap
    outline[:26, 1] += 0.7 * gap * (np.linspace(1, 0, 26) ** 2)
    return outline


def pneumothorax(scene: Scene, where: Random, rng: Random, severity: float) -> list[Array]:
    """Paint air without vessel markings at the apex and along the wall, and the pleural line."""
    side, canvas = pick_side(where), scene.canvas
    s = np.linspace(0, 1, 26)
    gap = (0.022 + 0.065 * severity) * (1 - 0.75 * s**1.2)
    inner = _shrunk(scene, side, gap)
    collapsed = canvas.fill(inner, 0.003)
    space = np.clip(scene.lungs[side > 0] - collapsed, 0, 1)
    line = canvas.strokes([inner[1:24]], 0.0045, soften=0.0016) * scene.lungs[side > 0]
    change = -(0.5 * scene.vessels + (0.12 + 0.15 * severity) * scene.air) * space + 0.12 * line
    return [change]


def pleural_thickening(scene: Scene, where: Random, rng: Random, severity: float) -> list[Array]:
    """Paint an irregular band along the chest wall, or an apical cap."""
    side, canvas, body = pick_side(where), scene.canvas, scene.body
    s = np.linspace(0, 1, 26)
    lumps = np.interp(s, np.linspace(0, 1, 8), rng.uniform(0.6, 1.3, 8))
    if where.random() < 0.4:
        extent = np.exp(-np.square(s / 0.3))
        thick = 0.045 + 0.045 * severity
    else:
        extent = np.exp(-np.square((s - where.uniform(0.55, 0.85)) / 0.22))
        thick = 0.042 + 0.038 * severity
    inner = _shrunk(scene, side, thick * extent * lumps)
    band = np.clip(scene.lungs[side > 0] - canvas.fill(inner, 0.002), 0, 1)
    along = smoothstep(canvas.y, body.apex - 0.1, body.apex)
    return [fill_air(scene, band * along * 0.9) + 0.46 * band]
