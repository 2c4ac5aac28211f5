"""Decoding a PNG file whose every chunk is intact."""

from __future__ import annotations

import io
import struct
import zlib
from typing import NamedTuple

import cv2
import numpy as np
import tensorstore
from PIL import Image

from agcnn_jax.data.pixels import UnreadableImageError, check_pixels, color_to_gray, deep_to_gray

SIGNATURE = b"\x89PNG\r\n\x1a\n"


class _Header(NamedTuple):
    width: int
    height: int
    bit_depth: int
    color_type: int
    interlaced: int
    transparency: bool


def decode_png(data: bytes) -> np.ndarray:
    """Decode a PNG and convert it to gray.

    Args:
        data: content of the file, which begins with `SIGNATURE`; 1 to 16 bits a sample, gray, RGB,
            RGBA or palette.

    Returns:
        uint8 `[H, W]`.

    Raises:
        UnreadableImageError: truncated, damaged, or larger than `MAX_PIXELS`.
    """
    header = _check_container(data)
    try:
        if header[2:] == (8, 0, 0, False):
            return _decode_gray8(data)
        image = Image.open(io.BytesIO(data), formats=["PNG"])
        image.load()  # also checks that no pixel is missing
        if header.bit_depth == 16 and image.mode in ("RGB", "RGBA", "LA"):
            return _decode_color16(data)
    except Exception as error:  # decoders raise anything from OSError to SyntaxError for bad data
        raise UnreadableImageError(" ".join(str(error).split())[:200]) from None
    if image.mode.startswith("I"):  # 16 bits a pixel
        return deep_to_gray(np.asarray(image))
    return np.asarray(image.convert("L"))  # drops alpha: NIH's RGBA files are opaque gray


def _decode_color16(data: bytes) -> np.ndarray:
    """Decode 16 bits a sample with OpenCV: Pillow keeps the high byte alone. Alpha is dropped."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.dtype != np.uint16:
        raise UnreadableImageError("damaged: no PNG that can be decoded")
    return deep_to_gray(color_to_gray(image[..., 2::-1]))


def _check_container(data: bytes) -> _Header:
    """Check every chunk's length and checksum: decoders accept a file without its last bytes."""
    view = memoryview(data)
    fields: tuple[int, ...] = ()
    transparency = False
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
            fields = struct.unpack_from(">IIBBxxB", data, position + 8)
        transparency |= kind == b"tRNS"
        if kind == b"IEND":
            break
        position = end + 4
    if not fields:
        raise UnreadableImageError("no header")
    header = _Header._make((*fields, transparency))
    check_pixels(header.width, header.height)
    return header


# tensorstore's libpng decodes 8-bit gray 1.4 times as fast as Pillow 13 (7.3 against 10.3 ms for
# NIH's 1024 x 1024, OpenCV 8.8 ms). The pixels are the same. Of the 10 ms that a core needs to
# prepare a file, inflating takes 4.6 and undoing the row filters 2.7.
_context = tensorstore.Context({"data_copy_concurrency": {"limit": 1}})
_store = tensorstore.KvStore.open("memory://", context=_context).result()
_spec = {"driver": "png", "kvstore": {"driver": "memory", "path": "image.png"}}


def _decode_gray8(data: bytes) -> np.ndarray:
    """Return the uint8 `[H, W]` pixels of an 8-bit gray PNG."""
    _store["image.png"] = data
    image = tensorstore.open(_spec, context=_context, open=True, read=True).result()
    return image.read().result()[..., 0]
