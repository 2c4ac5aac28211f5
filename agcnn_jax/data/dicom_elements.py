"""Data elements of a DICOM object (PS3.5, 7; PS3.10, 7), as far as a film needs them.

pydicom would do, but it logs and warns with the header's text, which may identify a patient. Only
process-wide settings silence it, and those are not safe while other threads decode. It also returns
values that are cut short as if they were whole. This reader has no state, and names what is cut.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from agcnn_jax.data.dicom_header import KEYWORDS, Element, Header
from agcnn_jax.data.pixels import UnreadableImageError

EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"

_WANTED = {tag: (keyword, vr) for keyword, (tag, vr) in KEYWORDS.items()}
_PIXELS = KEYWORDS["PixelData"][0]
_LONG = ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV")
_SHORT = ("AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "PN", "SH", "SL")
_VRS = (*_LONG, *_SHORT, "SS", "ST", "TM", "UI", "UL", "US")
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_CUT = "truncated: the file ends inside the DICOM header"
_DEEPEST = 16  # nested sequences; what is deeper is damaged or hostile
_ROOT = "1.2.840.10008."  # of all UIDs that the standard defines


class Encoding(NamedTuple):
    """How elements are written: with their VRs or not, and the order of bytes."""

    explicit: bool
    little: bool


def begins_like_dicom(data: bytes) -> bool:
    """Return True if the first few thousand bytes of a file are DICOM's beyond doubt.

    Either they have the preamble's prefix (PS3.10, 7.1), or they begin with elements that name a
    storage class of the standard.
    """
    return data[128:132] == b"DICM" or storage_class(data).startswith(_ROOT)


def storage_class(data: bytes) -> str:
    """Return the storage class that the first few thousand bytes of a file name, or "".

    It is "" unless all elements before are of the groups 2 to 8, in ascending order.
    """
    start = _start(data)
    encoding = _guess(data, start)
    classes = KEYWORDS["MediaStorageSOPClassUID"][0], KEYWORDS["SOPClassUID"][0]
    last = 0
    try:
        for tag, vr, at, length in _heads(data, start, len(data), encoding):
            if tag <= last or tag >> 16 not in (2, 4, 8) or length == _UNDEFINED:
                break
            if encoding.explicit and vr not in _VRS:
                break
            if tag in classes:
                return data[at : at + length].decode("latin-1").strip(" \0")
            last = tag
    except UnreadableImageError:  # the bytes end
        pass
    return ""


def read_header(data: bytes) -> Header:
    """Read the elements of `KEYWORDS`, to the pixels.

    Raises:
        UnreadableImageError: truncated, damaged or deflated.
    """
    start = _start(data)
    meta, at = _elements(data, start, len(data), Encoding(True, True), top_group=2)
    syntax = Header(meta).text("TransferSyntaxUID")
    if syntax == DEFLATED:
        # A few bytes may inflate to any size.
        raise UnreadableImageError("a deflated DICOM object; save it with another transfer syntax")
    encoding = _guess(data, at)
    if syntax == EXPLICIT_BIG:
        encoding = Encoding(True, False)
    elements, _ = _elements(data, at, len(data), encoding)
    if not syntax and "PixelData" in elements and elements["PixelData"].fragments is None:
        syntax = EXPLICIT_LITTLE
    written = Element("UI", syntax.encode("latin-1"))
    return Header({**meta, **elements, "TransferSyntaxUID": written}, encoding.little)


def _start(data: bytes) -> int:
    """Return where the first element is; some files lack the preamble, or all that precedes it."""
    if data[128:132] == b"DICM":
        return 132
    return 4 if data[:4] == b"DICM" else 0


def _guess(data: bytes, at: int) -> Encoding:
    """Tell the encoding by the first element, since some files declare another."""
    explicit = data[at + 4 : at + 6].decode("latin-1") in _VRS
    # Groups of big-endian files, read as little-endian, are multiples of 256.
    little = data[at : at + 1] != b"\0" or data[at : at + 2] == b"\0\0"
    return Encoding(explicit, little)


def _heads(
    data: bytes, at: int, end: int, encoding: Encoding
) -> Iterator[tuple[int, str, int, int]]:
    """Yield tag, VR, position of the value, and its length; elements of a known length only."""
    while at < end:
        tag, vr, at, length = _head(data, at, end, encoding)
        yield tag, vr, at, length
        at += length


def _head(data: bytes, at: int, end: int, encoding: Encoding) -> tuple[int, str, int, int]:
    """Read tag, VR ("" if the file does not say it), position of the value, and its length."""
    if end - at < 8:
        raise UnreadableImageError(_CUT)
    order = "<" if encoding.little else ">"
    group, element = struct.unpack_from(f"{order}HH", data, at)
    vr = data[at + 4 : at + 6].decode("latin-1")
    # Some writers switch to implicit VRs inside sequences; no length is as large as two letters.
    letters = vr.isascii() and vr.isupper() and vr.isalpha()
    if group == 0xFFFE or not encoding.explicit or not letters:
        (length,) = struct.unpack_from(f"{order}I", data, at + 4)
        return group << 16 | element, "", at + 8, length
    if vr not in _LONG:
        (length,) = struct.unpack_from(f"{order}H", data, at + 6)
        return group << 16 | element, vr, at + 8, length
    if end - at < 12:
        raise UnreadableImageError(_CUT)
    (length,) = struct.unpack_from(f"{order}I", data, at + 8)
    return group << 16 | element, vr, at + 12, length


def _elements(
    data: bytes, at: int, end: int, encoding: Encoding, top_group: int = 0, depth: int = 0
) -> tuple[dict[str, Element], int]:
    """Read elements to `end`, to the end of their item, of `top_group`, or to the pixels.

    Returns:
        The wanted ones, and the position behind the last one.
    """
    if depth > _DEEPEST:
        raise UnreadableImageError("damaged: a DICOM header that cannot be read")
    found: dict[str, Element] = {}
    while at < end:
        if top_group and data[at : at + 2] != struct.pack("<H", top_group):
            break
        tag, vr, start, length = _head(data, at, end, encoding)
        if tag == _ITEM_END:
            return found, start
        keyword, usual_vr = _WANTED.get(tag, ("", ""))
        vr = usual_vr if vr in ("", "UN") and usual_vr else vr
        if length == _UNDEFINED and tag == _PIXELS and depth == 0:
            fragments, at = _fragments(data, start, end, encoding)
            found[keyword] = Element(vr, b"", fragments=fragments)
            return found, at
        if length == _UNDEFINED or (keyword and vr == "SQ"):
            # A sequence whose VR is UN is written in implicit VRs (PS3.5, 6.2.2).
            inner = Encoding(encoding.explicit and vr != "UN", encoding.little)
            last = end if length == _UNDEFINED else start + length
            if last > end:
                raise UnreadableImageError(_CUT)
            items, at = _items(data, start, last, inner, depth, length == _UNDEFINED)
            if keyword:
                found[keyword] = Element("SQ", b"", items=items)
            continue
        at = start + length
        if at > end:
            where = "pixel data" if tag == _PIXELS else "DICOM header"
            raise UnreadableImageError(f"truncated: the file ends inside the {where}")
        if keyword:
            found[keyword] = Element(vr, bytes(data[start:at]))
        if tag == _PIXELS and depth == 0:
            break
    return found, at


def _items(
    data: bytes, at: int, end: int, encoding: Encoding, depth: int, delimited: bool
) -> tuple[list[Header], int]:
    """Read the items of a sequence (PS3.5, 7.5)."""
    items: list[Header] = []
    while at < end:
        tag, _, start, length = _head(data, at, end, encoding)
        if tag == _SEQUENCE_END:
            return items, start
        if tag != _ITEM:
            raise UnreadableImageError("damaged: a DICOM header that cannot be read")
        last = end if length == _UNDEFINED else start + length
        if last > end:
            raise UnreadableImageError(_CUT)
        found, at = _elements(data, start, last, encoding, depth=depth + 1)
        at = at if length == _UNDEFINED else last
        items.append(Header(found, encoding.little))
    if delimited:
        raise UnreadableImageError(_CUT)
    return items, at


def _fragments(data: bytes, at: int, end: int, encoding: Encoding) -> tuple[list[bytes], int]:
    """Read the fragments of compressed pixels, without the table of offsets (PS3.5, A.4)."""
    fragments: list[bytes] = []
    while end - at >= 8:
        tag, _, start, length = _head(data, at, end, encoding)
        if tag == _SEQUENCE_END:
            return fragments[1:], start
        if tag != _ITEM:
            raise UnreadableImageError("damaged: pixel data that is not made of fragments")
        at = start + length
        if at > end:
            break
        fragments.append(bytes(data[start:at]))
    raise UnreadableImageError("truncated: the file ends inside the pixel data")
