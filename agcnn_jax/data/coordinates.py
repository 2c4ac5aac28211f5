"""Conversion of boxes and heat maps between the model's input and the original image file.

The stored image is the whole file, resized; the model's input is its centre crop, resized.
"""

from __future__ import annotations

import numpy as np

CENTRE_FRACTION = 224 / 256
"""Side of the centre crop and of a plain random crop, as a fraction of the stored image's side."""


def centre_box(stored_size: int) -> tuple[int, int, int, int]:
    """Return the box of the centre crop, `xmin, ymin, xmax, ymax` in pixels of the stored image."""
    margin = round(stored_size * (1 - CENTRE_FRACTION) / 2)
    return margin, margin, stored_size - margin, stored_size - margin


def to_original_pixels(
    boxes: np.ndarray, input_size: int, stored_size: int, sizes: np.ndarray
) -> np.ndarray:
    """Map boxes from the model's input to the original file.

    Boxes grow to whole pixels and stay inside the file. All arithmetic is in whole numbers.

    Args:
        boxes: int `[N, 4]` half-open pixels of the input.
        input_size: side of the input in pixels.
        stored_size: side of the stored images in pixels.
        sizes: `[N, 2]`, each file's width and height in pixels.

    Returns:
        int32 `[N, 4]`.
    """
    left, top, right, _ = centre_box(stored_size)
    offset = np.array([left, top, left, top]) * input_size
    sizes = np.tile(np.asarray(sizes, np.int64), (1, 2))
    pixels = (np.asarray(boxes, np.int64) * (right - left) + offset) * sizes
    whole = input_size * stored_size
    corners = np.concatenate([pixels[:, :2] // whole, -(-pixels[:, 2:] // whole)], axis=1)
    return np.clip(corners, 0, sizes).astype(np.int32)


def to_input_pixels(
    boxes: np.ndarray, input_size: int, stored_size: int, size: np.ndarray
) -> np.ndarray:
    """Map boxes from a file to the model's input; they may extend beyond the crop.

    Args:
        boxes: `[M, 4]` half-open pixels of the file.
        input_size: side of the input in pixels.
        stored_size: side of the stored images in pixels.
        size: `[2]`, the file's width and height in pixels.

    Returns:
        float64 `[M, 4]`; of corners that are whole, or float32 of at least 1, the numbers nearest
        to the exact ones.
    """
    left, top, right, _ = centre_box(stored_size)
    size = np.tile(np.asarray(size, np.float64), 2)
    # Exact for such corners, so that the division is the only step that rounds.
    pixels = np.asarray(boxes, np.float64) * stored_size - np.array([left, top, left, top]) * size
    return pixels * input_size / (size * (right - left))


def heat_map_on_film(heat_map: np.ndarray, stored_size: int, width: int, height: int) -> np.ndarray:
    """Stretch a heat map over the original file, bilinearly with half-pixel centres.

    Args:
        heat_map: `[s, s]` of the model's input, 0 to 1.
        stored_size: side of the stored images in pixels.
        width: of the file in pixels.
        height: of the file in pixels.

    Returns:
        float32 `[height, width]`; 0 in the margin that the centre crop leaves out.
    """
    map32 = np.asarray(heat_map, np.float32)
    low, _, high, _ = centre_box(stored_size)

    def stretch(rows: np.ndarray, size: int) -> np.ndarray:
        stored = (np.arange(size) + 0.5) * (stored_size / size)
        place = np.clip((stored - low) * (len(rows) / (high - low)) - 0.5, 0, len(rows) - 1)
        first = place.astype(np.int64)
        second = np.minimum(first + 1, len(rows) - 1)
        weight = (place - first).astype(np.float32)[:, None]
        # In whole numbers: a centre on the crop's edge must not depend on rounding.
        centres = (2 * np.arange(size) + 1) * stored_size
        inside = ((centres >= 2 * low * size) & (centres < 2 * high * size))[:, None]
        return np.where(inside, rows[first] * (1 - weight) + rows[second] * weight, 0)

    return np.ascontiguousarray(stretch(stretch(map32, height).T, width).T, np.float32)
