"""Limits and error that all decoders of films share, and the way from deep pixels to 8 bits."""

from __future__ import annotations

import numpy as np

# A 1024 x 1024 radiograph has 1 Mpx. A file that claims to be far larger is damaged or hostile.
MAX_PIXELS = 64 * 1024 * 1024
MAX_BYTES = 64 * 1024 * 1024

_ROWS = 256
"""Rows that are looked up at a time: numpy makes 8 bytes of every index."""


class UnreadableImageError(Exception):
    """The file holds no film that can be read; the message says why, without naming the file."""


def check_pixels(width: int, height: int) -> None:
    """Raise `UnreadableImageError` for a film larger than `MAX_PIXELS`, or without pixels."""
    if width * height > MAX_PIXELS or min(width, height) < 1:
        raise UnreadableImageError(f"claims {width} x {height} pixels")


def deep_to_gray(levels: np.ndarray, inverted: bool = False) -> np.ndarray:
    """Convert a file's samples of up to 16 bits to 8 bits, linearly.

    Files do not say how many of 16 bits a film uses: a detector's 12 bits would be nearly black on
    a scale of 16. White is therefore the largest value of the fewest bits that the film needs.

    Args:
        levels: unsigned integers `[H, W]`, below 65536.
        inverted: 0 is white.

    Returns:
        uint8 `[H, W]`.
    """
    white = (1 << max(int(levels.max()).bit_length(), 8)) - 1
    table = (np.arange(white + 1, dtype=np.uint32) * 255 + white // 2) // white
    return look_up(levels, (255 - table if inverted else table).astype(np.uint8))


def color_to_gray(levels: np.ndarray) -> np.ndarray:
    """Convert RGB uint16 `[H, W, 3]` to gray uint16 `[H, W]`, with Pillow's weights (BT.601)."""
    gray = np.empty(levels.shape[:2], np.uint16)
    weights = np.array([19595, 38470, 7471], np.uint32)  # they sum to 1 << 16
    for row in range(0, len(levels), _ROWS):
        gray[row : row + _ROWS] = (levels[row : row + _ROWS] @ weights + (1 << 15)) >> 16
    return gray


def look_up(levels: np.ndarray, table: np.ndarray, first: int = 0) -> np.ndarray:
    """Map integers `[H, W]` through a table; `table[0]` is for the value `first`."""
    film = np.empty(levels.shape, table.dtype)
    for row in range(0, len(levels), _ROWS):
        film[row : row + _ROWS] = table[levels[row : row + _ROWS].astype(np.int64) - first]
    return film
