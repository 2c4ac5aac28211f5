"""Decoding a DICOM object: a radiograph of one gray frame, as a viewer shows it at first.

Stored values become gray levels by the modality LUT or rescaling, then the VOI LUT or window, and
MONOCHROME1 is inverted last (PS3.3, C.11.1, C.11.2 and C.7.6.3.1.2). Of the header nothing is kept,
and no message repeats its text: either may identify a patient.
"""

from __future__ import annotations

import io
import re
import sys
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from agcnn_jax.data.pixels import UnreadableImageError, check_pixels, look_up

if TYPE_CHECKING:
    from pydicom import Dataset

MODALITIES = ("CR", "DX", "RG", "SC")
"""Computed, digital and conventional radiography, and secondary capture."""

INSTALL = "pip install 'agcnn-jax[dicom]'"
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
    if dataset.SamplesPerPixel != 1 or dataset.PhotometricInterpretation not in _GRAY:
        raise UnreadableImageError("a DICOM object in colour")
    if dataset.BitsAllocated not in (8, 16):
        raise UnreadableImageError("a DICOM object whose samples have neither 8 nor 16 bits")
    check_pixels(dataset.Columns, dataset.Rows)
    stored = _stored_values(dataset)
    low, high = int(stored.min()), int(stored.max())
    shares = display_shares(dataset, np.arange(low, high + 1, dtype=stored.dtype))
    return look_up(stored, np.rint(255 * shares).astype(np.uint8), low)


def display_shares(dataset: Dataset, stored: np.ndarray) -> np.ndarray:
    """Map stored values `[N]` to what a viewer shows: float64 `[N]`, 0 black to 1 white.

    Of several LUTs or windows, the first counts. An object that has neither is shown from its
    smallest to its largest value.
    """
    from pydicom.pixels import apply_modality_lut, apply_voi

    values = np.asarray(apply_modality_lut(stored, dataset), np.float64)
    if dataset.get("VOILUTSequence"):
        bits = dataset.VOILUTSequence[0].LUTDescriptor[2]
        shown = apply_voi(np.rint(values).astype(np.int64), dataset)
        shares = np.clip(shown / ((1 << int(bits)) - 1), 0, 1)
    elif dataset.get("WindowCenter") is not None and dataset.get("WindowWidth") is not None:
        centre, width = _first(dataset.WindowCenter), _first(dataset.WindowWidth)
        shares = window_shares(values, centre, width, dataset.get("VOILUTFunction") or "LINEAR")
    else:
        spread = np.ptp(values)
        shares = (values - values.min()) / spread if spread else np.zeros_like(values)
    return 1 - shares if dataset.PhotometricInterpretation == "MONOCHROME1" else shares


def window_shares(
    values: np.ndarray, centre: float, width: float, function: str = "LINEAR"
) -> np.ndarray:
    """Apply a window to values `[N]` (PS3.3, C.11.2.1.2 and C.11.2.1.3); 0 to 1.

    Raises:
        UnreadableImageError: the width or the function is not one that the standard allows.
    """
    if not width >= (1 if function == "LINEAR" else 1e-9):
        raise UnreadableImageError("damaged: a window without a width")
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(-4 * (values - centre) / width)))
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1)
    if function != "LINEAR":
        raise UnreadableImageError("a window of a function that is not in the standard")
    if width == 1:
        return (values > centre - 0.5).astype(np.float64)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


def _first(value: Any) -> float:
    return float(value[0] if hasattr(value, "__len__") and not isinstance(value, str) else value)


def _check_modality(dataset: Dataset) -> None:
    modality = str(dataset.get("Modality") or "")
    if modality not in MODALITIES:
        # Anything may stand there; the standard's terms are short and in capitals.
        name = modality if re.fullmatch("[A-Z]{2,8}", modality) else "unknown"
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
