"""Crops from the stored images, which show more detail than the inputs cut out of them."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from agcnn_jax.attention.resample import crop_and_resize

Array = TypeVar("Array", jax.Array, np.ndarray)


class Stored(NamedTuple):
    """B stored images of side T, and what the model's inputs show of them.

    Attributes:
        images: uint8 `[B, T, T]`.
        windows: int32 `[B, 4]`, the box of each input, `xmin, ymin, xmax, ymax` in pixels,
            half-open; it was resized to the input's size.
        mirrored: bool `[B]`, whether the input was mirrored left to right after that.
    """

    images: jax.Array
    windows: jax.Array
    mirrored: jax.Array


def stored_boxes(boxes: Array, windows: Array, mirrored: Array, size: int) -> Array:
    """Map boxes from the model's input back to the stored images, on the host or the device.

    Boxes grow to whole pixels. Whole numbers alone are computed with, so that host and device
    agree.

    Args:
        boxes: int32 `[B, 4]` in pixels of the input.
        windows: see `Stored`.
        mirrored: see `Stored`.
        size: side of the input in pixels.

    Returns:
        int32 `[B, 4]` in pixels of the stored images, inside the windows.
    """
    # Mirroring swaps xmin and xmax, and counts them from the other side.
    swap, turn = np.array([2, 1, 0, 3]), np.array([-1, 1, -1, 1], np.int32)
    shift = np.array([size, 0, size, 0], np.int32)
    flip = mirrored[:, None].astype(np.int32)
    upright = flip * (boxes[:, swap] * turn + shift) + (1 - flip) * boxes
    corner = windows[:, np.array([0, 1, 0, 1])]
    sides = windows[:, np.array([2, 3, 2, 3])] - corner
    # Division rounds down: of the upper edges, the negative is divided.
    down = np.array([1, 1, -1, -1], np.int32)
    return corner + down * (down * upright * sides // size)


def crop_stored(
    stored: Stored, boxes: jax.Array, size: int, dtype: jax.typing.DTypeLike
) -> jax.Array:
    """Cut boxes out of stored images and resize them to the input's size, inside jit.

    Bilinear as in `crop_and_resize`, antialiased where a box is shrunk, and mirrored where the
    input is.

    Args:
        stored: the stored images and what the inputs show of them.
        boxes: int32 `[B, 4]` in pixels of the input.
        size: side of the input and of the result in pixels.
        dtype: of the result, float32 or float64.

    Returns:
        `[B, size, size]`.
    """
    boxes = stored_boxes(boxes, stored.windows, stored.mirrored, size)
    crops = crop_and_resize(stored.images.astype(dtype), boxes, size)
    return jnp.where(stored.mirrored[:, None, None], crops[:, :, ::-1], crops)
