"""The pulmonary vessels as paths in film units."""

from __future__ import annotations

import numpy as np

from agcnn_jax.data_prep.phantom import anatomy
from agcnn_jax.data_prep.phantom.anatomy import SIDES, Body
from agcnn_jax.data_prep.phantom.canvas import Array


def vessel_tree(body: Body, side: int, rng: np.random.Generator) -> list[tuple[float, Array]]:
    """Return the vessels of one lung: (width in film units, paths float [N, K, 2]), thinnest first.

    There are three orders of branches. The trunks of the first are thicker than their ends.
    """
    turn = np.radians([-74, -48, -20, 12, 34, 52, 68, 82]) + rng.normal(0, 0.12, 8)
    long = body.half_width * rng.uniform(0.45, 0.9, 8) * np.where(turn > 0.8, 1.15, 0.8)
    root = np.array(anatomy.hilum(body, side)) + np.stack([np.zeros(8), 0.045 * np.sin(turn)], 1)
    parents = _branches(root + rng.normal(0, 0.008, (8, 2)), turn, long, side, rng)
    tree = [(0.0045, parents[:, 2:]), (0.0075, parents[:, :4])]
    for width, at, share in ((0.0036, (2, 3, 4), 0.5), (0.0024, (2, 4), 0.5)):
        joints = np.concatenate([parents[:, i] for i in at])
        fork = rng.choice(SIDES, len(joints)) * rng.uniform(0.35, 0.85, len(joints))
        turn = np.concatenate([turn] * len(at)) + fork
        long = np.concatenate([long] * len(at)) * share * rng.uniform(0.6, 1.1, len(joints))
        parents = _branches(joints, turn, long, side, rng)
        tree.append((width, parents))
    return sorted(tree, key=lambda part: part[0])


def _branches(
    roots: Array, angles: Array, lengths: Array, side: int, rng: np.random.Generator
) -> Array:
    """Return slightly curved paths from `roots`, float [N, 6, 2]; angle 0 is lateral, pi/2 down."""
    s = np.linspace(0, 1, 6)[None, :]
    bend = rng.normal(0, 0.28, (len(angles), 1)) * s**2
    x = s * np.cos(angles)[:, None] - bend * np.sin(angles)[:, None]
    y = s * np.sin(angles)[:, None] + bend * np.cos(angles)[:, None]
    path = np.stack([side * x, y], 2) * lengths[:, None, None]
    return np.asarray(roots)[:, None, :] + path
