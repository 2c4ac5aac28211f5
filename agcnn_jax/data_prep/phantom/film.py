"""A film of the body: attenuation along each ray, then exposure.

Attenuation is 1 for the soft tissue of an average chest. Transmitted radiation darkens the film.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from agcnn_jax.data_prep.phantom import anatomy, layers
from agcnn_jax.data_prep.phantom.anatomy import SIDES, Body
from agcnn_jax.data_prep.phantom.canvas import Array, Canvas, smoothstep

# Films of this size or larger have their smooth layers drawn at half the resolution.
COARSE_FROM = 192


@dataclasses.dataclass
class Scene:
    """A chest as attenuation, into which findings are painted; arrays are float32 [size, size].

    Attributes:
        canvas: the pixel grid and the pose.
        body: the patient's outlines.
        total: attenuation along each ray.
        air: how much aerated lung reduces `total`; airspace opacities replace it.
        lungs: masks of the right and the left lung, 0..1.
        vessels: attenuation of the pulmonary vessels, included in `total`.
    """

    canvas: Canvas
    body: Body
    total: Array
    air: Array
    lungs: tuple[Array, Array]
    vessels: Array


@dataclasses.dataclass(frozen=True)
class Exposure:
    """The exposure of a film and its gray scale.

    Attributes:
        contrast: steepness of the characteristic curve.
        black: gray level of air.
        white: gray level of the densest tissue.
        noise: standard deviation of the quantum noise in gray levels.
    """

    contrast: float
    black: float
    white: float
    noise: float


def draw_exposure(rng: np.random.Generator, portable: bool) -> Exposure:
    """Draw a film's exposure; portable (AP) films have less contrast and more noise."""
    flat = rng.random() < (0.35 if portable else 0.15)
    return Exposure(
        contrast=float(np.exp(rng.normal(0.45, 0.15))),
        black=float(rng.uniform(20, 45) if flat else rng.uniform(0, 14)),
        white=float(rng.uniform(180, 225) if flat else rng.uniform(238, 258)),
        noise=float(rng.uniform(1.0, 2.6) * (1.25 if portable else 1.0)),
    )


def draw_pose(rng: np.random.Generator, portable: bool) -> Array:
    """Draw the patient's position on the film: rotation, scale and shift, float [2, 3]."""
    turn = np.radians(rng.normal(0, 3.0 if portable else 1.3))
    scale = rng.normal(1.13 if portable else 1.1, 0.045)
    wide = scale * rng.normal(1.0, 0.025)
    matrix = np.array(
        [[wide * np.cos(turn), -scale * np.sin(turn)], [wide * np.sin(turn), scale * np.cos(turn)]]
    )
    middle = np.array([0.5, 0.45])
    shift = rng.normal(0, [0.016, 0.02]) * (1.5 if portable else 1.0)
    return np.concatenate([matrix, (middle - matrix @ middle + shift)[:, None]], 1)


def draw_chest(canvas: Canvas, body: Body, rng: np.random.Generator) -> Scene:
    """Return a chest without findings; `rng` draws its details (vessels, bowel gas, texture)."""
    right, left = (canvas.fill(anatomy.lung(body, side)) for side in SIDES)
    both = right + left
    hollow = np.minimum(1.7 * canvas.blur(both, 0.028), 1.0)
    air = canvas.blur(both, 0.0022) * (0.30 + 0.40 * hollow) * np.float32(body.air)
    air *= 1.04 - 0.1 * smoothstep(canvas.y, 0.35, 0.75)
    outline = canvas.fill(anatomy.heart(body), 0.004)
    air *= 1 - 0.9 * outline
    vessels = layers.vessels(canvas, body, rng) * canvas.blur(both, 0.003)
    vessels *= 1 - 0.75 * outline
    air *= 1 + 0.022 * canvas.texture(rng, 0.012) + 0.04 * canvas.texture(rng, 0.08)
    total = _smooth_layers(canvas, body, both, rng) - air + vessels
    total += layers.bones(canvas, body) + layers.wall_lines(canvas, body)
    return Scene(canvas, body, total, air, (right, left), vessels)


def _smooth_layers(canvas: Canvas, body: Body, lungs: Array, rng: np.random.Generator) -> Array:
    """Return soft tissue and gas, which have no fine detail, at half the resolution if large."""
    size = canvas.size
    if size >= COARSE_FROM:
        canvas = Canvas(size // 2, canvas.pose)
        lungs = cv2.resize(lungs, (size // 2, size // 2), interpolation=cv2.INTER_AREA)
    total = layers.soft_tissue(canvas, body)
    total += layers.mediastinum(canvas, body, lungs)
    total += layers.breasts(canvas, body, rng)
    total -= layers.abdominal_gas(canvas, body, rng)
    return cv2.resize(total, (size, size), interpolation=cv2.INTER_LINEAR)


def expose(scene: Scene, exposure: Exposure, rng: np.random.Generator) -> Array:
    """Return the film of a scene, float32 [size, size] in gray levels, not yet clipped."""
    size = scene.canvas.size
    through = np.exp(np.float32(-exposure.contrast) * np.maximum(scene.total, 0))
    film = exposure.white - np.float32(exposure.white - exposure.black) * through
    film = scene.canvas.blur(film, 0.0022)
    # Noise is correlated between neighbouring detector elements, hence the blur. It makes uniform
    # bytes, drawn ten times as fast as normal numbers, nearly normal; the factor restores their
    # deviation.
    grain = rng.integers(0, 256, (size, size), np.uint8).astype(np.float32)
    grain = (cv2.GaussianBlur(grain, (3, 3), 0.6) - 127.5) * np.float32(exposure.noise / 38)
    film += grain * (0.55 + 0.75 * through)
    return film
