"""Gray levels of a DICOM object: what a viewer shows of its stored values at first.

Stored values go through the modality LUT or rescaling (PS3.3, C.11.1), then the VOI LUT or window
(C.11.2); the presentation LUT's shape (C.11.6) or else MONOCHROME1 (C.7.6.3.1.2) inverts them last.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from agcnn_jax.data.dicom_header import Header
from agcnn_jax.data.pixels import UnreadableImageError


class Lut(NamedTuple):
    """A lookup table: the value of its first entry, its entries int64 `[N]`, and their bits."""

    first: int
    entries: np.ndarray
    bits: int

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Map values `[N]`, cut to integers as in DCMTK, to entries; beyond the ends, to those."""
        index = np.trunc(values).astype(np.int64) - self.first
        return self.entries[np.clip(index, 0, len(self.entries) - 1)]


def display_shares(
    header: Header, stored: np.ndarray, film_range: tuple[int, int] | None = None
) -> np.ndarray:
    """Map stored values `[N]` to what a viewer shows: float64 `[N]`, 0 black to 1 white.

    Of several LUTs or windows, the first valid one counts, and a LUT before a window. An object
    that has none is shown from its smallest to its largest value.

    Args:
        header: of the object.
        stored: integers `[N]`.
        film_range: the smallest and largest stored value that is no padding; default: of `stored`.

    Raises:
        UnreadableImageError: the rescaling or the window's function is none of the standard's.
    """
    values = modality_values(header, stored)
    function = header.text("VOILUTFunction") or "LINEAR"
    window = _first_window(header, function)
    # The first value of a LUT has the sign of its input: the stored values, if nothing maps them.
    signed = values.min() < 0 or (stored.dtype.kind == "i" and np.array_equal(values, stored))
    lut = _first_lut(header.items("VOILUTSequence"), signed)
    if lut:
        shares = lut.apply(values) / ((1 << lut.bits) - 1)
    elif window:
        shares = window_shares(values, *window, function)
    else:
        low, high = film_range or (stored.min(), stored.max())
        film = values[(stored >= low) & (stored <= high)]
        spread = np.ptp(film)
        shares = (values - film.min()) / spread if spread else np.zeros(len(values))
        shares = np.clip(shares, 0, 1)
    return 1 - shares if _inverted(header) else shares


def modality_values(header: Header, stored: np.ndarray) -> np.ndarray:
    """Apply the modality LUT, or else the rescaling, to stored values `[N]`; float64 `[N]`.

    What a LUT returns is unsigned, whatever the stored values are (C.11.1.1.1). A rescaling without
    slope or intercept, or by a slope of 0, is none, as in DCMTK.
    """
    lut = _first_lut(header.items("ModalityLUTSequence"), stored.dtype.kind == "i")
    if lut:
        return lut.apply(stored).astype(np.float64)
    slope, intercept = header.numbers("RescaleSlope"), header.numbers("RescaleIntercept")
    if not slope or not intercept or slope[0] == 0:
        return stored.astype(np.float64)
    values = stored * slope[0] + intercept[0]
    if not np.isfinite(values).all():
        raise UnreadableImageError("damaged: a rescaling by no number")
    return values


def window_shares(
    values: np.ndarray, centre: float, width: float, function: str = "LINEAR"
) -> np.ndarray:
    """Apply a window to values `[N]` (PS3.3, C.11.2.1.2 and C.11.2.1.3); 0 to 1.

    The width is above 0; for the function `LINEAR`, at least 1.

    Raises:
        UnreadableImageError: the function is not one that the standard allows.
    """
    if function == "SIGMOID":
        # Beyond 700 the share is 0 in float64; the exponential would overflow later.
        return np.asarray(1 / (1 + np.exp(np.minimum(-4 * (values - centre) / width, 700))))
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1)
    if function != "LINEAR":
        raise UnreadableImageError("a window of a function that is not in the standard")
    if width == 1:
        return (values > centre - 0.5).astype(np.float64)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


def unpadded_range(header: Header, stored: np.ndarray) -> tuple[int, int] | None:
    """Return the smallest and largest value beside the padding (PS3.3, C.7.5.1.1.2).

    None if the object names no padding, or holds nothing else.
    """
    first = header.numbers("PixelPaddingValue")[:1]
    if not first:
        return None
    last = header.numbers("PixelPaddingRangeLimit")[:1] or first
    # Some files declare a negative value as an unsigned one of the same bits.
    ends = np.array(first + last).astype(np.int64).astype(stored.dtype)
    film = (stored < ends.min()) | (stored > ends.max())
    if not film.any():
        return None
    limits = np.iinfo(stored.dtype)
    low = stored.min(where=film, initial=limits.max)
    return int(low), int(stored.max(where=film, initial=limits.min))


def _inverted(header: Header) -> bool:
    """Return True if the smallest value is white. The shape counts first, as in DCMTK."""
    shape = header.text("PresentationLUTShape")
    if shape in ("IDENTITY", "INVERSE"):
        return shape == "INVERSE"
    return header.text("PhotometricInterpretation") == "MONOCHROME1"


def _first_lut(items: list[Header], signed: bool) -> Lut | None:
    """Read the first valid LUT of a sequence; `signed`: its input may be below 0."""
    luts = (_lut(item, signed) for item in items)
    return next((lut for lut in luts if lut), None)


def _lut(item: Header, signed: bool) -> Lut | None:
    """Read a LUT (PS3.3, C.11.1.1.1 and C.11.2.1.1), as leniently as DCMTK."""
    descriptor = [int(number) & 0xFFFF for number in item.numbers("LUTDescriptor")]
    if len(descriptor) < 3 or "LUTData" not in item:
        return None
    count, first, bits = descriptor[:3]
    count = count or 65536
    data = item.elements["LUTData"].value
    words = np.frombuffer(data, "<u2" if item.little else ">u2", len(data) // 2)
    if len(words) != count and len(words) == (count + 1) // 2:  # two entries a word
        entries = words.astype("<u2").view(np.uint8)[:count]
    else:  # the data count, not the descriptor
        entries = words[:65536]
    if not len(entries):
        return None
    # The first value is signed if its VR says so, or if the input is.
    if first > 32767 and (signed or item.elements["LUTDescriptor"].vr == "SS"):
        first -= 65536
    needed = max(int(entries.max()).bit_length(), 8)
    bits = max(bits, needed) if 8 <= bits <= 16 else needed
    return Lut(first, entries.astype(np.int64), bits)


def _first_window(header: Header, function: str) -> tuple[float, float] | None:
    """Return centre and width of the first window that the standard allows."""
    narrowest = 1 if function == "LINEAR" else 1e-9
    centres, widths = header.numbers("WindowCenter"), header.numbers("WindowWidth")
    for centre, width in zip(centres, widths, strict=False):
        if math.isfinite(centre) and math.isfinite(width) and width >= narrowest:
            return centre, width
    return None
