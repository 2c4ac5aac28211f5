"""Masks that are hard for one way or another of finding regions."""

import cv2
import numpy as np


def masks_of(kind, count, height, width, seed=0):
    """Draw masks bool `[count, height, width]` of one of `KINDS`."""
    rng = np.random.default_rng([seed, *kind.encode()])
    return np.array([KINDS[kind](rng, height, width) for _ in range(count)])


def _noise(rng, height, width):
    return rng.random((height, width)) < rng.choice([0.02, 0.1, 0.25, 0.4, 0.6, 0.9])


def _heat_maps(rng, height, width):
    """What the model thresholds: a few cells, enlarged."""
    cells = rng.random((7, 7)).astype(np.float32)
    heat = cv2.resize(cells, (width, height), interpolation=cv2.INTER_LINEAR)
    return heat > rng.uniform(0.3, 0.95)


def _blobs(rng, height, width):
    smooth = cv2.GaussianBlur(rng.normal(size=(height, width)), (0, 0), rng.uniform(1, 6))
    return smooth > rng.uniform(0, 1) * smooth.max()


def _serpentines(rng, height, width):
    """One region as long as can be, or several where the walls have gaps in other places."""
    mask = np.ones((height, width), bool)
    step = int(rng.integers(2, 5))
    for number, row in enumerate(range(1, height, step)):
        mask[row] = False
        if rng.random() < 0.95:
            mask[row, -1 if number % 2 else 0] = True
    return mask.T[:height, :width].copy() if height == width and rng.random() < 0.5 else mask


def _mazes(rng, height, width):
    """Corridors that branch and never meet again: a region as tangled as can be."""
    mask = np.zeros((height, width), bool)
    mask[0, 0] = True
    path = [(0, 0)]
    while path:
        y, x = path[-1]
        steps = ((y + 2, x), (y - 2, x), (y, x + 2), (y, x - 2))
        free = [(a, b) for a, b in steps if 0 <= a < height and 0 <= b < width and not mask[a, b]]
        if not free:
            path.pop()
            continue
        a, b = free[rng.integers(len(free))]
        mask[a, b] = mask[(y + a) // 2, (x + b) // 2] = True
        path.append((a, b))
    return mask


def _ties(rng, height, width):
    """Squares of the same size, apart from each other."""
    mask, side = np.zeros((height, width), bool), int(rng.integers(1, 4))
    for y in range(0, height - side, side + 1):
        for x in range(0, width - side, side + 1):
            mask[y : y + side, x : x + side] = rng.random() < 0.3
    return mask


def _diagonals(rng, height, width):
    """Steps to the left or the right, a pixel a line: only corners touch."""
    mask = np.zeros((height, width), bool)
    for _ in range(int(rng.integers(1, 6))):
        x = int(rng.integers(width))
        for y in range(int(rng.integers(height)), height):
            mask[y, x] = True
            x = int(np.clip(x + rng.choice([-1, 1]), 0, width - 1))
    return mask


def _borders(rng, height, width):
    """Lines at the edges, where one line of pixels must not go on in the next."""
    mask = np.zeros((height, width), bool)
    for side in rng.permutation(4)[: int(rng.integers(1, 4))]:
        np.rot90(mask, side)[0, :: int(rng.integers(1, 3))] = True
    return mask


KINDS = {
    "noise": _noise,
    "heat maps": _heat_maps,
    "blobs": _blobs,
    "serpentines": _serpentines,
    "mazes": _mazes,
    "ties": _ties,
    "diagonals": _diagonals,
    "borders": _borders,
    "checkerboard": lambda rng, height, width: np.indices((height, width)).sum(0) % 2 == 0,
    "comb": lambda rng, height, width: np.indices((height, width))[1] % 2 == 0,
    "empty": lambda rng, height, width: np.zeros((height, width), bool),
    "one pixel": lambda rng, height, width: (
        np.arange(height * width) == rng.integers(height * width)
    ).reshape(height, width),
    "full": lambda rng, height, width: np.ones((height, width), bool),
}
