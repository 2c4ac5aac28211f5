"""Data elements of a DICOM object (PS3.5, 7; PS3.10, 7), as far as a film needs them.

pydicom would do, but it logs and warns with the header's text, which may identify a patient. Only
process-wide settings silence it, and those are not safe while other threads decode. It also returns
values that are cut short as if they were whole. This reader has no state, and names what is cut.
"""

from __future__ import annotations

import math
import struct
from typing import NamedTuple

from agcnn_jax.data.pixels import UnreadableImageError

EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
_DEFLATED = "1.2.840.10008.1.2.1.99"

HEAD_BYTES = 4096
"""The bytes of a file that `is_dicom` and `is_directory` need."""

_TAGS = {
    "MediaStorageSOPClassUID": (0x00020002, "UI"),
    "TransferSyntaxUID": (0x00020010, "UI"),
    "SOPClassUID": (0x00080016, "UI"),
    "Modality": (0x00080060, "CS"),
    "SamplesPerPixel": (0x00280002, "US"),
    "PhotometricInterpretation": (0x00280004, "CS"),
    "NumberOfFrames": (0x00280008, "IS"),
    "Rows": (0x00280010, "US"),
    "Columns": (0x00280011, "US"),
    "BitsAllocated": (0x00280100, "US"),
    "BitsStored": (0x00280101, "US"),
    "HighBit": (0x00280102, "US"),
    "PixelRepresentation": (0x00280103, "US"),
    "PixelPaddingValue": (0x00280120, "US"),
    "PixelPaddingRangeLimit": (0x00280121, "US"),
    "WindowCenter": (0x00281050, "DS"),
    "WindowWidth": (0x00281051, "DS"),
    "RescaleIntercept": (0x00281052, "DS"),
    "RescaleSlope": (0x00281053, "DS"),
    "VOILUTFunction": (0x00281056, "CS"),
    "ModalityLUTSequence": (0x00283000, "SQ"),
    "LUTDescriptor": (0x00283002, "US"),
    "LUTData": (0x00283006, "OW"),
    "VOILUTSequence": (0x00283010, "SQ"),
    "PresentationLUTShape": (0x20500020, "CS"),
    "FloatPixelData": (0x7FE00008, "OF"),
    "DoubleFloatPixelData": (0x7FE00009, "OD"),
    "PixelData": (0x7FE00010, "OW"),
}
"""The attributes that are read: their tags, and their VRs where a file does not say them."""

_WANTED = {tag: (keyword, vr) for keyword, (tag, vr) in _TAGS.items()}
_PIXELS = _TAGS["PixelData"][0]
_LONG = ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV")
_SHORT = ("AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "PN", "SH", "SL")
_VRS = (*_LONG, *_SHORT, "SS", "ST", "TM", "UI", "UL", "US")
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_CUT = "truncated: the file ends inside the DICOM header"
_DEEPEST = 16  # nested sequences; what is deeper is damaged or hostile
_DIRECTORY = "1.2.840.10008.1.3.10"  # Media Storage Directory
_ROOT = "1.2.840.10008."  # of all UIDs that the standard defines
_NUMBERS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d", "OW": "H"}


class Element(NamedTuple):
    """A value: bytes, the items of a sequence, or the fragments of compressed pixels."""

    vr: str
    value: bytes
    items: list[Header] | None = None
    fragments: list[bytes] | None = None


class Header:
    """The elements of an object or of an item, by keyword."""

    def __init__(self, elements: dict[str, Element], little: bool = True):
        self.elements, self.little = elements, little

    def __contains__(self, keyword: str) -> bool:
        return keyword in self.elements

    def text(self, keyword: str) -> str:
        """Return a text in capitals, without padding; "" if it is absent."""
        element = self.elements.get(keyword)
        return element.value.decode("latin-1").strip(" \0").upper() if element else ""

    def numbers(self, keyword: str) -> list[float]:
        """Return numbers, NaN for those that cannot be read; [] if the attribute is absent."""
        element = self.elements.get(keyword)
        if not element or not element.value.strip(b" \0" if element.vr in ("DS", "IS") else b""):
            return []
        if element.vr in ("DS", "IS"):
            return [_number(text) for text in element.value.decode("latin-1").split("\\")]
        kind = _NUMBERS.get(element.vr, "H")
        size = struct.calcsize(kind)
        count = len(element.value) // size
        order = "<" if self.little else ">"
        return list(struct.unpack(f"{order}{count}{kind}", element.value[: count * size]))

    def items(self, keyword: str) -> list[Header]:
        """Return the items of a sequence."""
        element = self.elements.get(keyword)
        return (element.items or []) if element else []

    def required(self, keyword: str) -> int:
        """Return a whole number that an image must have.

        Raises:
            UnreadableImageError: it is missing.
        """
        first = (self.numbers(keyword) or [math.nan])[0]
        if not math.isfinite(first):
            raise UnreadableImageError(f"a DICOM object without {keyword}")
        return int(first)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


class Encoding(NamedTuple):
    """How elements are written: with their VRs or not, and the order of bytes."""

    explicit: bool
    little: bool


def is_dicom(data: bytes) -> bool:
    """Return True if a file, or its first `HEAD_BYTES`, is DICOM beyond doubt.

    Either it has the preamble's prefix (PS3.10, 7.1), or it begins with elements that name a
    storage class of the standard.
    """
    return data[128:132] == b"DICM" or _storage_class(data).startswith(_ROOT)


def is_directory(data: bytes) -> bool:
    """Return True if the first `HEAD_BYTES` are those of a medium's directory (a DICOMDIR)."""
    return _storage_class(data) == _DIRECTORY


def _storage_class(data: bytes) -> str:
    """Return the storage class that the first few thousand bytes of a file name, or "".

    It is "" unless all elements before are of the groups 2 to 8, in ascending order.
    """
    at = _start(data)
    encoding = _guess(data, at)
    classes = _TAGS["MediaStorageSOPClassUID"][0], _TAGS["SOPClassUID"][0]
    last = 0
    while len(data) - at >= 12:
        tag, vr, at, length = _head(data, at, len(data), encoding)
        if tag <= last or tag >> 16 not in (2, 4, 8) or length == _UNDEFINED:
            break
        if encoding.explicit and vr not in _VRS:
            break
        if tag in classes:
            return data[at : at + length].decode("latin-1").strip(" \0")
        last, at = tag, at + length
    return ""


def read_header(data: bytes) -> Header:
    """Read the elements of `_TAGS`, to the pixels.

    Raises:
        UnreadableImageError: truncated, damaged or deflated.
    """
    start = _start(data)
    meta, at = _elements(data, start, len(data), Encoding(True, True), top_group=2)
    syntax = Header(meta).text("TransferSyntaxUID")
    if syntax == _DEFLATED:
        # A few bytes may inflate to any size.
        raise UnreadableImageError("a deflated DICOM object; save it with another transfer syntax")
    encoding = _guess(data, at)
    if syntax == EXPLICIT_BIG:
        encoding = Encoding(True, False)
    elements, _ = _elements(data, at, len(data), encoding)
    if not syntax and "PixelData" in elements and elements["PixelData"].fragments is None:
        syntax = EXPLICIT_LITTLE
    declared = Element("UI", syntax.encode("latin-1"))
    return Header({**meta, **elements, "TransferSyntaxUID": declared}, encoding.little)


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


def _head(data: bytes, at: int, end: int, encoding: Encoding) -> tuple[int, str, int, int]:
    """Read tag, VR ("" if the file does not say it), position of the value, and its length."""
    if end - at < 8:
        raise UnreadableImageError(_CUT)
    order = "<" if encoding.little else ">"
    group, element = struct.unpack_from(f"{order}HH", data, at)
    vr = data[at + 4 : at + 6].decode("latin-1")
    # Some writers switch to implicit VRs inside sequences. Two letters would be too large a length.
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
    elements: dict[str, Element] = {}
    while at < end:
        if top_group and data[at : at + 2] != struct.pack("<H", top_group):
            break
        tag, vr, start, length = _head(data, at, end, encoding)
        if tag == _ITEM_END:
            return elements, start
        keyword, usual_vr = _WANTED.get(tag, ("", ""))
        vr = usual_vr if vr in ("", "UN") and usual_vr else vr
        if length == _UNDEFINED and tag == _PIXELS and depth == 0:
            fragments, at = _fragments(data, start, end, encoding)
            elements[keyword] = Element(vr, b"", fragments=fragments)
            return elements, at
        if length == _UNDEFINED or (keyword and vr == "SQ"):
            # A sequence whose VR is UN is written in implicit VRs (PS3.5, 6.2.2).
            inner = Encoding(encoding.explicit and vr != "UN", encoding.little)
            last = end if length == _UNDEFINED else start + length
            if last > end:
                raise UnreadableImageError(_CUT)
            items, at = _items(data, start, last, inner, depth, length == _UNDEFINED)
            if keyword:
                elements[keyword] = Element("SQ", b"", items=items)
            continue
        at = start + length
        if at > end:
            where = "pixel data" if tag == _PIXELS else "DICOM header"
            raise UnreadableImageError(f"truncated: the file ends inside the {where}")
        if keyword:
            elements[keyword] = Element(vr, bytes(data[start:at]))
        if tag == _PIXELS and depth == 0:
            break
    return elements, at


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
        elements, at = _elements(data, start, last, encoding, depth=depth + 1)
        at = at if length == _UNDEFINED else last
        items.append(Header(elements, encoding.little))
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
