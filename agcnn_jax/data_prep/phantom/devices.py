"""Devices, side marker and collimation borders on a film."""

from __future__ import annotations

import cv2
import numpy as np

from agcnn_jax.data_prep.phantom.anatomy import SIDES, lung_point
from agcnn_jax.data_prep.phantom.canvas import Array, spline
from agcnn_jax.data_prep.phantom.film import Scene


def add_devices(scene: Scene, rng: np.random.Generator, portable: bool) -> None:
    """Add leads, catheters, tubes and pacemakers to `scene.total`, whatever the findings."""
    body, canvas = scene.body, scene.canvas
    m, w, a = body.middle, body.half_width, body.apex
    metal, plastic = canvas.blank(), canvas.blank()
    often = 2.6 if portable else 0.35
    if rng.random() < 0.16 * often:
        for _ in range(rng.integers(2, 5)):
            start = (m + rng.uniform(-1.1, 1.1) * w, rng.uniform(a + 0.05, 0.75))
            middle = (m + rng.uniform(-1.2, 1.2) * w, rng.uniform(0.2, 0.8))
            end = (m + rng.choice(SIDES) * rng.uniform(0.5, 1.7) * w, rng.choice([-0.05, 1.05]))
            canvas.stroke(metal, [spline(np.array([start, middle, end]), 14, False)], 0.004, 0.7)
            dot = np.array(start)[None] + [[0, 0], [0, 0.001]]
            canvas.stroke(metal, [dot], 0.022, 0.5)
    if rng.random() < 0.13 * often:
        side = int(rng.choice(SIDES))
        ends = [(m + side * 0.16, -0.02), (m + side * 0.12, a + 0.02), (m - 0.045, a + 0.1)]
        if rng.random() < 0.5:
            ends[0] = (m + side * (w + 0.1), a + 0.12)
        path = spline(np.array([*ends, (m - 0.05, a + 0.2 + 0.1 * rng.random())]), closed=False)
        canvas.stroke(plastic, [path], 0.007, 0.55)
    if rng.random() < 0.08 * often:
        tube = np.array([(m, -0.02), (m, a), (m - 0.004, a + rng.uniform(0.05, 0.12))])
        canvas.stroke(plastic, [tube], 0.011, 0.6)
    if rng.random() < 0.05 * often:
        path = np.array([(m + 0.01, -0.02), (m + 0.012, a + 0.3), (m + 0.08, body.dome + 0.1)])
        canvas.stroke(plastic, [spline(path, closed=False)], 0.009, 0.5)
    if rng.random() < 0.025:
        at = np.array(lung_point(body, 1, rng.uniform(0.75, 0.9), 0.22))
        canvas.stroke(metal, [at[None] + [[0, 0], [0.01, 0.014]]], 0.06, 1.0)
        tip = np.array([(m + 0.02, a + 0.1), (m - 0.05, a + 0.2), (m + 0.03, body.dome - 0.02)])
        canvas.stroke(metal, [spline(np.concatenate([at[None], tip]), closed=False)], 0.005, 0.8)
    layer = 1.1 * metal.astype(np.float32) + 0.35 * plastic
    if layer.any():
        scene.total += canvas.blur(layer / 255, 0.0018)


def add_marker_and_borders(film: Array, rng: np.random.Generator) -> Array:
    """Add side marker and borders to an exposed film; return the pixels, uint8 [size, size]."""
    image = np.clip(np.round(film), 0, 255).astype(np.uint8)
    if rng.random() < 0.9:
        _mark(image, rng)
    if rng.random() < 0.3:
        _border(image, rng)
    return image


def _mark(image: Array, rng: np.random.Generator) -> None:
    """Draw the letter L on the patient's left."""
    size = len(image)
    x, y = rng.uniform(0.88, 0.94), rng.uniform(0.05, 0.14)
    shine = int(rng.uniform(170, 255))
    tall, wide = rng.uniform(0.022, 0.036), 0.016
    turn = rng.normal(0, 0.25)
    spin = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    letter = np.array([(0, -tall), (0, 0), (wide, 0)]) @ spin.T + [x, y]
    points = np.round(letter * size * 16).astype(np.int32)
    cv2.polylines(image, [points], False, shine, max(1, round(size / 150)), cv2.LINE_AA, 4)


def _border(image: Array, rng: np.random.Generator) -> None:
    """Draw black or white borders with slanted edges, as of a misaligned collimator."""
    size = len(image)
    value = int(rng.choice([0, 4, 250], p=[0.6, 0.25, 0.15]))
    for edge in np.flatnonzero(rng.random(4) < 0.4):
        near, far = rng.uniform(0, 0.035 if value < 100 else 0.012, 2) * size
        band = np.array([(0, 0), (size, 0), (size, far), (0, near)], float)
        for _ in range(edge):
            band = np.stack([size - band[:, 1], band[:, 0]], 1)
        cv2.fillPoly(image, [np.round(band * 16).astype(np.int32)], value, cv2.LINE_AA, 4)
