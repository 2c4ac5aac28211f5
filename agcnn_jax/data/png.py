"""Decoding a PNG file whose every chunk is intact."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
from PIL import Image

from agcnn_jax.data.pixels import UnreadableImageError, check_pixels, color_to_gray, deep_to_gray

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
"""The chunks that pixels come from; of the others, libpng prints warnings."""


def decode_png(data: bytes) -> np.ndarray:
    """Decode a PNG and convert it to gray.

    Args:
        data: content of the file, which begins with `SIGNATURE`; 1 to 16 bits a sample, gray, RGB,
            RGBA or palette. Alpha is dropped: NIH's RGBA files are opaque gray.

    Returns:
        uint8 `[H, W]`.

    Raises:
        UnreadableImageError: truncated, damaged, of several pictures, or larger than `MAX_PIXELS`.
    """
    # OpenCV, since Pillow 13 fills missing pixels with black, and keeps 8 of 16 bits in colour.
    try:
        image = cv2.imdecode(np.frombuffer(_checked(data), np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        image = None
    if image is None:
        raise UnreadableImageError("damaged: pixels are missing, or cannot be decoded")
    if image.ndim == 3:
        image = image[..., 2::-1]  # BGR or BGRA
    if image.dtype == np.uint16:
        return deep_to_gray(color_to_gray(image) if image.ndim == 3 else image)
    return np.asarray(Image.fromarray(image).convert("L")) if image.ndim == 3 else image


def _checked(data: bytes) -> bytes:
    """Check every chunk's length and checksum: decoders accept a file without its last bytes.

    Returns:
        The file with its critical chunks alone.
    """
    view = memoryview(data)
    chunks = [view[: len(SIGNATURE)]]
    has_header = False
    position = len(SIGNATURE)
    while True:
        if position + 12 > len(data):
            raise UnreadableImageError("truncated")
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            raise UnreadableImageError("truncated")
        if zlib.crc32(view[position + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise UnreadableImageError("damaged: a checksum does not match")
        if kind == b"IHDR" and length == 13:
            check_pixels(*struct.unpack_from(">II", data, position + 8))
            has_header = True
        if kind == b"acTL" and length == 8 and struct.unpack_from(">I", data, position + 8)[0] > 1:
            raise UnreadableImageError("holds several pictures; save each as a file of its own")
        if kind in _CRITICAL:
            chunks.append(view[position : end + 4])
        if kind == b"IEND":
            break
        position = end + 4
    if not has_header:
        raise UnreadableImageError("damaged: no header")
    return b"".join(chunks)
