"""What a DICOM header says of a film: typed access to the attributes that are read."""

from __future__ import annotations

import math
import struct
from typing import NamedTuple

from agcnn_jax.data.pixels import UnreadableImageError

KEYWORDS = {
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
        found = self.numbers(keyword)
        if not found or not math.isfinite(found[0]):
            raise UnreadableImageError(f"a DICOM object without {keyword}")
        return int(found[0])


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
