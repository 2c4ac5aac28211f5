"""Checks of a TIFF that Pillow does not make: the kind of its samples, and whether it is whole."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from PIL import TiffImagePlugin

from agcnn_jax.data.jpeg import check_jpeg
from agcnn_jax.data.pixels import MAX_PIXELS, UnreadableImageError

SIGNATURES = (b"II*\0", b"MM\0*")

_BITS_PER_SAMPLE, _COMPRESSION, _PHOTOMETRIC, _SAMPLE_FORMAT, _JPEG_TABLES = 258, 259, 262, 339, 347
_PLACES = ((273, 279), (324, 325))  # of strips and of tiles: the tags of offsets and lengths
_SIZES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}  # of the types of values, in bytes
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3  # sample formats
_JPEG, _DEFLATE = 7, (8, 32946)  # compressions
_CHUNK = 1 << 20


class Samples(NamedTuple):
    """What the samples of a TIFF are: whole numbers of at most 16 bits."""

    bits: int
    signed: bool
    zero_is_white: bool


def check_samples(tags: Mapping[int, Any]) -> Samples:
    """Check the samples of a TIFF, or of another image, which has no tags.

    Raises:
        UnreadableImageError: they are no whole numbers, have more than 16 bits, are signed bytes,
            or signed with a white zero, which Pillow cannot decode.
    """
    bits = max(tags.get(_BITS_PER_SAMPLE, ()), default=8)
    kind = max(tags.get(_SAMPLE_FORMAT, ()), default=_UNSIGNED)
    samples = Samples(bits, kind == _SIGNED, tags.get(_PHOTOMETRIC) == 0)
    if kind == _FLOAT:
        raise UnreadableImageError(f"float samples of {bits} bits; save it with 8 or 16")
    if bits > 16:
        raise UnreadableImageError(f"samples of {bits} bits; save it with 8 or 16")
    if samples.signed and (bits <= 8 or samples.zero_is_white):
        raise UnreadableImageError(f"signed samples of {bits} bits; save it with unsigned ones")
    if kind not in (_UNSIGNED, _SIGNED):
        raise UnreadableImageError(f"samples of format {kind}; save it with unsigned ones")
    return samples


def check_decodable(data: bytes) -> None:
    """Raise `UnreadableImageError` for a TIFF that Pillow cannot decode, if the reason is known."""
    tags: Mapping[int, Any] = {}
    try:
        if not (truncated := _ends_too_early(data)):
            tags = _tags_of(data)
    except Exception:  # of what is no TIFF behind its first bytes
        return
    if truncated:
        raise UnreadableImageError("truncated")
    check_samples(tags)


def check_coded(data: bytes) -> None:
    """Check compressed pixels: libtiff decodes damaged ones, and reads no checksum at their end.

    Args:
        data: content of a file that Pillow decodes. Only JPEG and Deflate say that they are whole.

    Raises:
        UnreadableImageError: damaged.
    """
    tags = _tags_of(data)
    compression, tables = tags.get(_COMPRESSION), tags.get(_JPEG_TABLES, b"")
    left = 4 * MAX_PIXELS
    for offset, length in _places(tags):
        part = data[offset : offset + length]
        if compression == _JPEG:
            check_jpeg(tables[:-2] + part[2:] if tables else part)
        elif compression in _DEFLATE:
            left = _inflate(part, left)


def _inflate(part: bytes, left: int) -> int:
    """Inflate at most `left` bytes of Deflate data; return how many are left of these."""
    inflating = zlib.decompressobj()
    try:
        while part and left > 0 and not inflating.eof:
            left -= len(inflating.decompress(part, _CHUNK))
            part = inflating.unconsumed_tail
    except zlib.error:
        raise UnreadableImageError("damaged: its compressed data do not fit their sum") from None
    return left


def _tags_of(data: bytes) -> Mapping[int, Any]:
    """Read the tags of the first page."""
    tags = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
    file = io.BytesIO(data)
    file.seek(tags.next)
    tags.load(file)
    return tags


def _places(tags: Mapping[int, Any]) -> Iterator[tuple[int, int]]:
    """Yield offset and length in bytes of each strip or tile."""
    for offsets, lengths in _PLACES:
        yield from zip(tags.get(offsets, ()), tags.get(lengths, ()), strict=False)


def _ends_too_early(data: bytes) -> bool:
    """Tell whether a TIFF ends before its directory, or before the pixels that this names."""
    order = "<" if data.startswith(b"II") else ">"
    if len(data) < 8:
        return True
    (place,) = struct.unpack_from(f"{order}I", data, 4)
    if place + 2 > len(data):
        return True
    (count,) = struct.unpack_from(f"{order}H", data, place)
    if place + 2 + 12 * count > len(data):
        return True
    for entry in range(count):
        kind, length, value = struct.unpack_from(f"{order}HII", data, place + 4 + 12 * entry)
        size = length * _SIZES.get(kind, 1)
        if size > 4 and value + size > len(data):
            return True
    return any(offset + length > len(data) for offset, length in _places(_tags_of(data)))
