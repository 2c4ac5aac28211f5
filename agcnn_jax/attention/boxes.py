"""Boxes moved to the centre: whole numbers, the same on the host and on the device."""

from __future__ import annotations

from typing import TypeVar

import jax
import numpy as np

Array = TypeVar("Array", jax.Array, np.ndarray)

_LOW, _HIGH = np.array([0, 1, 0, 1]), np.array([2, 3, 2, 3])


def centred_boxes(boxes: Array, size: int) -> Array:
    """Move boxes to the centre of their images, half a pixel above or left of it if need be.

    Args:
        boxes: int32 `[B, 4]`, `xmin, ymin, xmax, ymax` in pixels, half-open, inside the images.
        size: side of the images in pixels.

    Returns:
        int32 `[B, 4]`, as wide and as high.
    """
    sides = boxes[:, _HIGH] - boxes[:, _LOW]
    return (size - sides) // 2 + sides * np.array([0, 0, 1, 1], np.int32)
