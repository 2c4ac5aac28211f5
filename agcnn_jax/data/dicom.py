"""Decoding a DICOM object: a radiograph of one gray frame, as a viewer shows it at first.

Stored values become gray levels by the modality LUT or rescaling, then the VOI LUT or window, and
MONOCHROME1 is inverted last (PS3.3, C.11.1, C.11.2 and C.7.6.3.1.2). Of the header nothing is kept,
and no message repeats its text: either may identify a patient.
"""

from __future__ import annotations

import io
import math
import sys
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from agcnn_jax.data.pixels import UnreadableImageError, check_pixels, look_up
from agcnn_jax.runtime.extras import packages_of

if TYPE_CHECKING:
    from pydicom import Dataset

MODALITIES = ("CR", "DX", "RG", "SC")
"""Computed, digital and conventional radiography, and secondary capture."""

INSTALL = packages_of("dicom")
_OTHER_MODALITIES = (
    "AR BDUS BI BMD CT CTPROTOCOL DG DMS DOC ECG EEG EMG EOG EPS ES FID GM HC HD IO IOL IVOCT IVUS"
    " KER KO LEN LP LS M3D MG MR NM OAM OCT OP OPM OPT OPTBSV OPTENF OPV OSS OT PA PLAN POS PR PT"
    " PX REG RESP RF RTDOSE RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR"
    " SR SRF STAIN TEXTUREMAP TG US VA XA XAPROTOCOL XC"
)
"""The standard's other terms (PS3.3, C.7.3.1.1.1), which a message may repeat."""
_DEFLATED = "1.2.840.10008.1.2.1.99"
_RLE = "1.2.840.10008.1.2.5"
_GRAY = ("MONOCHROME1", "MONOCHROME2")


def is_dicom(data: bytes) -> bool:
    """Return True if the bytes begin like a DICOM file (PS3.10, 7.1)."""
    return data[128:132] == b"DICM"


def decode_dicom(data: bytes) -> np.ndarray:
    """Decode a radiograph.

    Args:
        data: content of a DICOM file; uncompressed, RLE, JPEG, JPEG Lossless, JPEG-LS or JPEG 2000.

    Returns:
        uint8 `[H, W]`; larger is brighter.

    Raises:
        UnreadableImageError: damaged, not of `MODALITIES`, several frames, colour, more than 16
            bits, or a package is missing.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's repeat values of the header
            dataset = read_dataset(data)
            _check_modality(dataset)
            return gray_film(dataset)
    except UnreadableImageError:
        raise
    except Exception:  # pydicom and the decoders raise anything for bad data
        raise UnreadableImageError("damaged: no DICOM that can be decoded") from None


def read_dataset(data: bytes) -> Dataset:
    """Parse a DICOM file."""
    _import_decoders()
    from pydicom import dcmread
    from pydicom.filereader import _read_file_meta_info, read_preamble  # checked with 3.0.2

    stream = io.BytesIO(data)
    read_preamble(stream, force=False)
    if _read_file_meta_info(stream).get("TransferSyntaxUID") == _DEFLATED:
        # pydicom would inflate whatever a few bytes become.
        raise UnreadableImageError("a deflated DICOM object; save it with another transfer syntax")
    return dcmread(io.BytesIO(data))


def gray_film(dataset: Dataset) -> np.ndarray:
    """Decode the pixels of any object of one gray frame; see `decode_dicom`."""
    if "PixelData" not in dataset:
        raise UnreadableImageError("a DICOM object without pixels of up to 16 bits")
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        raise UnreadableImageError("a DICOM object of several frames")
    # Decoders know the standard's capitals only.
    dataset.PhotometricInterpretation = str(dataset.PhotometricInterpretation).strip().upper()
    if dataset.SamplesPerPixel != 1 or dataset.PhotometricInterpretation not in _GRAY:
        raise UnreadableImageError("a DICOM object in colour")
    if dataset.BitsAllocated not in (8, 16):
        raise UnreadableImageError("a DICOM object whose samples have neither 8 nor 16 bits")
    check_pixels(dataset.Columns, dataset.Rows)
    stored = _stored_values(dataset)
    if stored.shape != (dataset.Rows, dataset.Columns):
        raise UnreadableImageError("pixel data of another size than Rows x Columns")
    low, high = int(stored.min()), int(stored.max())
    levels = np.arange(low, high + 1, dtype=stored.dtype)
    shares = display_shares(dataset, levels, _unpadded_range(dataset, stored))
    return look_up(stored, np.rint(255 * shares).astype(np.uint8), low)


def display_shares(
    dataset: Dataset, stored: np.ndarray, film_range: tuple[int, int] | None = None
) -> np.ndarray:
    """Map stored values `[N]` to what a viewer shows: float64 `[N]`, 0 black to 1 white.

    Of several LUTs or windows, the first valid one counts. An object that has none is shown from
    its smallest to its largest value.

    Args:
        dataset: the object.
        stored: integers `[N]`.
        film_range: the smallest and largest stored value that is no padding; default: of `stored`.
    """
    from pydicom.pixels import apply_modality_lut, apply_voi

    values = np.asarray(apply_modality_lut(stored, dataset), np.float64)
    if not np.isfinite(values).all():
        raise UnreadableImageError("damaged: a rescaling by no number")
    function = str(dataset.get("VOILUTFunction") or "LINEAR")
    window = _first_window(dataset, function)
    if dataset.get("VOILUTSequence"):
        bits = dataset.VOILUTSequence[0].LUTDescriptor[2]
        shown = apply_voi(np.rint(values).astype(np.int64), dataset)
        shares = np.clip(shown / ((1 << int(bits)) - 1), 0, 1)
    elif window:
        shares = window_shares(values, *window, function)
    else:
        low, high = film_range or (stored.min(), stored.max())
        film = values[(stored >= low) & (stored <= high)]
        spread = np.ptp(film)
        shares = (values - film.min()) / spread if spread else np.zeros_like(values)
        shares = np.clip(shares, 0, 1)
    return 1 - shares if dataset.PhotometricInterpretation == "MONOCHROME1" else shares


def window_shares(
    values: np.ndarray, centre: float, width: float, function: str = "LINEAR"
) -> np.ndarray:
    """Apply a window to values `[N]` (PS3.3, C.11.2.1.2 and C.11.2.1.3); 0 to 1.

    The width is above 0; for the function `LINEAR`, at least 1.

    Raises:
        UnreadableImageError: the function is not one that the standard allows.
    """
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(-4 * (values - centre) / width)))
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1)
    if function != "LINEAR":
        raise UnreadableImageError("a window of a function that is not in the standard")
    if width == 1:
        return (values > centre - 0.5).astype(np.float64)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


def _first_window(dataset: Dataset, function: str) -> tuple[float, float] | None:
    """Return centre and width of the first window that the standard allows."""
    narrowest = 1 if function == "LINEAR" else 1e-9
    centres, widths = _numbers(dataset.get("WindowCenter")), _numbers(dataset.get("WindowWidth"))
    for centre, width in zip(centres, widths, strict=False):
        if math.isfinite(centre) and math.isfinite(width) and width >= narrowest:
            return centre, width
    return None


def _numbers(value: Any) -> list[float]:
    if value is None or value == "":
        return []
    several = hasattr(value, "__len__") and not isinstance(value, str)
    return [float(number) for number in (value if several else [value])]


def _unpadded_range(dataset: Dataset, stored: np.ndarray) -> tuple[int, int] | None:
    """Return the smallest and largest value beside the padding (PS3.3, C.7.5.1.1.2).

    None if the object names no padding, or holds nothing else.
    """
    first = dataset.get("PixelPaddingValue")
    if first is None:
        return None
    last = dataset.get("PixelPaddingRangeLimit")
    # Some files declare a negative value as an unsigned one of the same bits.
    ends = np.array([first, first if last is None else last]).astype(stored.dtype)
    film = (stored < ends.min()) | (stored > ends.max())
    if not film.any():
        return None
    limits = np.iinfo(stored.dtype)
    low = stored.min(where=film, initial=limits.max)
    return int(low), int(stored.max(where=film, initial=limits.min))


def _check_modality(dataset: Dataset) -> None:
    modality = str(dataset.get("Modality") or "")
    if modality not in MODALITIES:
        # Anything may stand there, even a name.
        name = modality if modality in _OTHER_MODALITIES.split() else "unknown"
        raise UnreadableImageError(f"modality {name}, not one of {', '.join(MODALITIES)}")


def _stored_values(dataset: Dataset) -> np.ndarray:
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_compressed and syntax != _RLE:
        if sys.modules.get("gdcm") is None:
            raise UnreadableImageError(f"compressed DICOM needs {INSTALL}")
        dataset.pixel_array_options(decoding_plugin="gdcm")
    elif syntax == _RLE:
        dataset.pixel_array_options(decoding_plugin="pydicom")
    return np.asarray(dataset.pixel_array)


def _import_decoders() -> None:
    """Import pydicom and, if it is installed, gdcm."""
    if "gdcm" not in sys.modules:
        # gdcm 3 imports a module `dl`, which Python lost long ago: one in the current folder would
        # run. None makes the import fail.
        sys.modules.setdefault("dl", None)  # type: ignore[arg-type]
        sys.modules.setdefault("DLFCN", None)  # type: ignore[arg-type]
        try:
            import gdcm

            for off in (gdcm.Trace.DebugOff, gdcm.Trace.WarningOff, gdcm.Trace.ErrorOff):
                off()  # they print to stderr
        except ImportError:
            sys.modules["gdcm"] = None  # type: ignore[assignment]
    try:
        import pydicom  # noqa: F401
    except ImportError:
        raise UnreadableImageError(f"DICOM needs {INSTALL}") from None
