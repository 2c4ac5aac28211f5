"""Decoding a DICOM object: a radiograph of one gray frame, as a viewer shows it at first.

Of the header nothing is kept, and no message repeats its text: either may identify a patient.
"""

from __future__ import annotations

import math

import numpy as np

from agcnn_jax.data.dicom_display import display_shares, unpadded_range
from agcnn_jax.data.dicom_header import Header, is_directory, read_header
from agcnn_jax.data.dicom_pixels import stored_values
from agcnn_jax.data.pixels import UnreadableImageError, check_pixels, look_up

MODALITIES = ("CR", "DX", "RG", "SC")
"""Computed, digital and conventional radiography, and secondary capture."""

_RADIOGRAPHS = tuple(
    f"1.2.840.10008.5.1.4.1.1.{number}" for number in ("1", "1.1", "1.1.1", "7", "7.2", "7.3")
)
"""Storage classes (PS3.4, B.5): CR, DX for presentation and for processing, secondary capture, and
secondary captures of gray bytes and words, which hold one frame or more."""
_OTHER_MODALITIES = (
    "AR BDUS BI BMD CT CTPROTOCOL DG DMS DOC ECG EEG EMG EOG EPS ES FID GM HC HD IO IOL IVOCT IVUS"
    " KER KO LEN LP LS M3D MG MR NM OAM OCT OP OPM OPT OPTBSV OPTENF OPV OSS OT PA PLAN POS PR PT"
    " PX REG RESP RF RTDOSE RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR"
    " SR SRF STAIN TEXTUREMAP TG US VA XA XAPROTOCOL XC"
)
"""The standard's other terms (PS3.3, C.7.3.1.1.1), which a message may repeat."""
_GRAY = ("MONOCHROME1", "MONOCHROME2")


def decode_dicom(data: bytes) -> np.ndarray:
    """Decode a radiograph.

    Args:
        data: content of a DICOM file; uncompressed, RLE, JPEG, JPEG Lossless, JPEG-LS or JPEG 2000.

    Returns:
        uint8 `[H, W]`; larger is brighter.

    Raises:
        UnreadableImageError: truncated, damaged, not of `MODALITIES` (nor, where the modality is
            absent, of a radiograph's storage class), several frames, colour, more than 16 bits, of
            a transfer syntax that is not decoded, or a package is missing.
    """
    if is_directory(data):
        raise UnreadableImageError("a medium's directory (DICOMDIR), not a film")
    try:
        header = read_header(data)
        _check_kind(header)
        return gray_film(header)
    except UnreadableImageError:
        raise
    except Exception:  # gdcm raises anything for bad data
        raise UnreadableImageError("damaged: no DICOM that can be decoded") from None


def gray_film(header: Header) -> np.ndarray:
    """Decode the pixels of any object of one gray frame; see `decode_dicom`."""
    if "FloatPixelData" in header or "DoubleFloatPixelData" in header:
        raise UnreadableImageError("a DICOM object whose samples are floating-point numbers")
    if "PixelData" not in header:
        raise UnreadableImageError("no pixels: a DICOM file that is truncated, or holds no image")
    frames = (header.numbers("NumberOfFrames") or [1])[0]
    if math.isfinite(frames) and frames > 1:
        raise UnreadableImageError("a DICOM object of several frames")
    interpretation = header.text("PhotometricInterpretation")
    if not interpretation:
        raise UnreadableImageError("a DICOM object without PhotometricInterpretation")
    samples = (header.numbers("SamplesPerPixel") or [1])[0]
    if samples != 1 or interpretation not in _GRAY:
        raise UnreadableImageError("a DICOM object in colour")
    rows, columns = header.required("Rows"), header.required("Columns")
    if header.required("BitsAllocated") not in (8, 16):
        raise UnreadableImageError("a DICOM object whose samples have neither 8 nor 16 bits")
    check_pixels(columns, rows)
    stored = stored_values(header)
    low, high = int(stored.min()), int(stored.max())
    levels = np.arange(low, high + 1, dtype=np.int64).astype(stored.dtype)
    shares = display_shares(header, levels, unpadded_range(header, stored))
    return look_up(stored, np.rint(255 * shares).astype(np.uint8), low)


def _check_kind(header: Header) -> None:
    """Raise `UnreadableImageError` for an object that is no radiograph."""
    storage = header.text("SOPClassUID") or header.text("MediaStorageSOPClassUID")
    modality = header.text("Modality")
    if modality in MODALITIES:
        return
    modalities = ", ".join(MODALITIES)
    if modality:
        # Anything may stand there, even a name.
        name = modality if modality in _OTHER_MODALITIES.split() else "unknown"
        raise UnreadableImageError(f"modality {name}, not one of {modalities}")
    # Anonymised objects may lack it. Without pixels, the file may end before it.
    if storage not in _RADIOGRAPHS and "PixelData" in header:
        raise UnreadableImageError(
            f"no modality (of {modalities}), and not the storage class of a radiograph"
        )
