"""The 14 findings of ChestX-ray14, painted into a scene with their true boxes.

A finding acts twice: `deform` changes the body before it is drawn (a wider heart, an elevated or
flattened diaphragm), `paint` changes the attenuation afterwards. Airspace opacities replace air, so
they stay within the lung and do not exceed the density of soft tissue.

The patient's generator `where` draws the location and side of a lesion; the film's generator `rng`
draws its details.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from agcnn_jax.data_prep.phantom import anatomy, opacities, pleura
from agcnn_jax.data_prep.phantom.anatomy import SIDES, Body, lung_point
from agcnn_jax.data_prep.phantom.canvas import Array, smoothstep
from agcnn_jax.data_prep.phantom.film import Scene
from agcnn_jax.data_prep.phantom.opacities import fill_air, pick_side, visible_mask

Random = np.random.Generator
Painter = Callable[[Scene, Random, Random, float], list[Array]]


def deform(finding: str, body: Body, where: Random, severity: float) -> Body:
    """Return the body as a finding changes it; most findings do not."""
    if finding == "Cardiomegaly":
        wide = max(body.cardiothoracic, 0.465) + 0.065 + 0.12 * severity
        return dataclasses.replace(body, cardiothoracic=wide, heart_tilt=body.heart_tilt + 0.2)
    if finding == "Emphysema":
        return dataclasses.replace(
            body,
            dome=body.dome + 0.016 + 0.045 * severity,
            curvature=body.curvature * (0.9 - 0.5 * severity),
            taper=body.taper + 0.9 * severity,
            air=body.air * (1.03 + 0.11 * severity),
            vessels=body.vessels * (0.95 - 0.45 * severity),
            cardiothoracic=body.cardiothoracic * (0.97 - 0.13 * severity),
        )
    if finding == "Atelectasis":
        shift = list(body.dome_shift)
        shift[pick_side(where) > 0] -= 0.004 + 0.03 * severity
        return dataclasses.replace(body, dome_shift=(shift[0], shift[1]))
    return body


def paint(finding: str, scene: Scene, where: Random, rng: Random, severity: float) -> Array:
    """Paint one finding into `scene`, changing it in place.

    Args:
        finding: one of `FINDINGS`.
        scene: the chest; `total` and `air` are changed.
        where: the patient's generator for this finding, in the same state as for `deform`.
        rng: the film's generator for this finding.
        severity: from 0, barely visible, to 1, severe.

    Returns:
        Boxes of the change, int [N, 4], half-open (xmin, ymin, xmax, ymax) in pixels of the film.
        N is 0 if no part of it is on the film.
    """
    return _boxes(scene, PAINTERS[finding](scene, where, rng, severity))


def _boxes(scene: Scene, changes: list[Array]) -> Array:
    """Apply changes in attenuation and return a box around each, int [N, 4]."""
    boxes = []
    for change in changes:
        if change.dtype == bool:
            shown = change
        else:
            scene.total += change
            shown = visible_mask(change)
        rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
        if len(rows):
            boxes.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    return np.array(boxes, int).reshape(-1, 4)


def _cardiomegaly(scene: Scene, where: Random, rng: Random, severity: float) -> list[Array]:
    outline = anatomy.heart(scene.body)
    top = np.quantile(outline[:, 1], 0.28)
    inside = scene.canvas.fill(outline) > 0.5
    return [inside & (scene.canvas.y > top) & (scene.canvas.y < scene.body.dome + 0.05)]


def _emphysema(scene: Scene, where: Random, rng: Random, severity: float) -> list[Array]:
    bullae = np.zeros_like(scene.canvas.x)
    for _ in range(where.poisson(2 + 3 * severity)):
        x, y = lung_point(
            scene.body, int(where.choice(SIDES)), where.uniform(0.4, 0.9), where.uniform(0.1, 0.6)
        )
        bullae += scene.canvas.ellipse(
            x, y, where.uniform(0.03, 0.06), where.uniform(0.03, 0.06), edge=(1.2, 0.6)
        )
    scene.total -= 0.05 * np.minimum(bullae, 1) * (scene.lungs[0] + scene.lungs[1])
    return [scene.lungs[0] + scene.lungs[1] > 0.5]


def _hernia(scene: Scene, where: Random, rng: Random, severity: float) -> list[Array]:
    body, canvas = scene.body, scene.canvas
    radius = 0.088 + 0.045 * severity
    x, y = body.middle + where.uniform(0.0, 0.06), body.dome - 0.5 * radius
    wide = radius * where.uniform(1.0, 1.25)
    inside = canvas.ellipse(x, y, wide, radius, edge=(1.1, 0.8))
    gas = canvas.ellipse(x, y, 0.85 * wide, 0.85 * radius, edge=(1.05, 0.8))
    gas *= smoothstep(canvas.y, y + 0.003, y - 0.003) * (0.6 + 0.25 * severity)
    return [fill_air(scene, 0.8 * inside) + inside * np.float32(0.4 + 0.15 * severity) - gas]


PAINTERS: dict[str, Painter] = {
    "Atelectasis": opacities.atelectasis,
    "Cardiomegaly": _cardiomegaly,
    "Effusion": pleura.effusion,
    "Infiltration": opacities.infiltration,
    "Mass": opacities.mass,
    "Nodule": opacities.nodule,
    "Pneumonia": opacities.pneumonia,
    "Pneumothorax": pleura.pneumothorax,
    "Consolidation": opacities.consolidation,
    "Edema": opacities.edema,
    "Emphysema": _emphysema,
    "Fibrosis": opacities.fibrosis,
    "Pleural_Thickening": pleura.pleural_thickening,
    "Hernia": _hernia,
}
FINDINGS = tuple(PAINTERS)


def add_incidental_findings(scene: Scene, rng: Random) -> None:
    """Add what reports do not mention: granulomas, nipple shadows, scars, hazy opacities."""
    canvas, body = scene.canvas, scene.body
    if rng.random() < 0.12:
        x, y = lung_point(body, int(rng.choice(SIDES)), *rng.uniform([0.3, 0.2], [0.85, 0.9]))
        radius = rng.uniform(0.006, 0.011)
        scene.total += canvas.ellipse(x, y, radius, radius) * rng.uniform(0.15, 0.4)
    if rng.random() < 0.10:
        for side in SIDES:
            x, y = lung_point(body, side, 0.62, 0.86 + 0.05 * rng.random())
            scene.total += canvas.ellipse(x, y, 0.014, 0.012) * rng.uniform(0.06, 0.14)
    if rng.random() < 0.12:
        x, y = lung_point(body, int(rng.choice(SIDES)), *rng.uniform([0.4, 0.1], [0.8, 0.9]))
        band = canvas.ellipse(x, y, rng.uniform(0.03, 0.06), 0.005, rng.uniform(-0.7, 0.7))
        scene.total += fill_air(scene, 0.35 * band)
    for _ in range(rng.poisson(0.5)):
        x, y = lung_point(body, int(rng.choice(SIDES)), *rng.uniform([0.3, 0.3], [0.75, 0.95]))
        haze = canvas.gaussian(x, y, rng.uniform(0.04, 0.08), rng.uniform(0.03, 0.07))
        scene.total += fill_air(scene, rng.uniform(0.08, 0.32) * haze)
    scene.total += fill_air(scene, max(0.0, rng.normal(0.0, 0.11)) * np.ones_like(canvas.x))
    if rng.random() < 0.08:
        # Chronic blunting of a costophrenic angle.
        side = int(rng.choice(SIDES))
        x, y = lung_point(body, side, 0.95, 1.0)
        scene.total += fill_air(
            scene, 0.9 * canvas.gaussian(x, body.angle(side) - 0.02, 0.03, 0.025)
        )


def severity(rng: Random) -> float:
    """Draw a severity in 0..1: mostly moderate, sometimes subtle, rarely severe."""
    return float(rng.beta(2.0, 1.4))
