"""Stored values of a DICOM image: its samples, decompressed, without the bits that are none."""

from __future__ import annotations

import struct

import numpy as np

from agcnn_jax.data.dicom_codecs import CODECS, CUT, decompress, name_of
from agcnn_jax.data.dicom_elements import EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE
from agcnn_jax.data.dicom_header import Header
from agcnn_jax.data.pixels import UnreadableImageError

_RLE = "1.2.840.10008.1.2.5"


def stored_values(header: Header) -> np.ndarray:
    """Decode the samples of one gray frame (PS3.5, 8.1.1).

    Args:
        header: with `BitsAllocated` 8 or 16.

    Returns:
        Integers `[Rows, Columns]`: `BitsStored` bits below and with `HighBit`, signed where
        `PixelRepresentation` is 1.

    Raises:
        UnreadableImageError: truncated, damaged, of a transfer syntax that is not decoded, or gdcm
            is missing.
    """
    stored, allocated = header.required("BitsStored"), header.required("BitsAllocated")
    # DCMTK takes a HighBit of 0 for a missing one, too.
    high = int((header.numbers("HighBit") or [0])[0]) or stored - 1
    if not 1 <= stored <= high + 1 <= allocated:
        raise UnreadableImageError(
            "BitsStored, HighBit and BitsAllocated that contradict each other"
        )
    bits, shift = stored, high + 1 - stored
    syntax = header.text("TransferSyntaxUID")
    fragments = header.elements["PixelData"].fragments
    if syntax in (IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG):
        if fragments is not None:
            raise UnreadableImageError("compressed pixel data, of an unknown transfer syntax")
        samples = _native(header, allocated)
    elif syntax not in CODECS and syntax != _RLE:
        raise UnreadableImageError(f"transfer syntax {name_of(syntax)}: not decoded")
    elif not fragments:
        raise UnreadableImageError("damaged: compressed pixel data without a fragment")
    elif syntax == _RLE:
        samples = _run_lengths(b"".join(fragments), header, allocated)
    else:
        size = header.required("Rows"), header.required("Columns")
        samples, frame = decompress(b"".join(fragments), *size, syntax)
        if frame.precision <= stored or high >= frame.precision:  # coded without the other bits
            shift = 0
            bits = frame.precision if frame.signed else stored
    return _as_numbers(samples, bits, shift, signed=header.required("PixelRepresentation") == 1)


def _as_numbers(samples: np.ndarray, bits: int, shift: int, signed: bool) -> np.ndarray:
    """Take `bits` of unsigned samples and give them their sign."""
    width = 8 * samples.itemsize
    if signed:
        # The sign moves to the highest bit, and back with those below.
        left = samples << np.array(width - min(bits + shift, width), samples.dtype)
        return left.view(f"i{samples.itemsize}") >> max(width - bits, 0)
    return (samples >> np.array(shift, samples.dtype)) & np.array(
        (1 << min(bits, width)) - 1, samples.dtype
    )


def _native(header: Header, allocated: int) -> np.ndarray:
    rows, columns = header.required("Rows"), header.required("Columns")
    element = header.elements["PixelData"]
    data, size = element.value, rows * columns * allocated // 8
    if len(data) < size:
        raise UnreadableImageError(f"truncated: {len(data)} of {size} bytes of pixel data")
    if len(data) >= 2 * size and len(data) > size + 1:
        raise UnreadableImageError("pixel data of another size than Rows x Columns")
    if not header.little and allocated == 8 and element.vr == "OW":
        data = np.frombuffer(data[: len(data) // 2 * 2], np.uint16).byteswap().tobytes()
    dtype = np.dtype(f"u{allocated // 8}").newbyteorder("<" if header.little else ">")
    samples = np.frombuffer(data, dtype, rows * columns).reshape(rows, columns)
    return samples.astype(dtype.newbyteorder("="))


def _run_lengths(data: bytes, header: Header, allocated: int) -> np.ndarray:
    """Decode RLE: the high bytes of all samples, then the low ones (PS3.5, G)."""
    rows, columns = header.required("Rows"), header.required("Columns")
    planes = allocated // 8
    if len(data) < 64:
        raise UnreadableImageError(CUT)
    count, *offsets = struct.unpack("<16I", data[:64])
    if count != planes:
        raise UnreadableImageError("damaged: RLE of another number of segments")
    ends = [*offsets[1:planes], len(data)]
    samples = np.zeros(rows * columns, f"u{planes}")
    for start, end in zip(offsets[:planes], ends, strict=True):
        plane = _unpack_bits(data[start:end], rows * columns)
        samples = (samples << np.array(8 % (8 * planes), samples.dtype)) | plane
    return samples.reshape(rows, columns)


def _unpack_bits(data: bytes, size: int) -> np.ndarray:
    """Decode a segment of PackBits (PS3.5, G.3.2) to uint8 `[size]`."""
    found = bytearray()
    at = 0
    while len(found) < size:
        if at + 1 >= len(data):
            raise UnreadableImageError(CUT)
        head = data[at]
        if head < 128:
            found += data[at + 1 : at + 2 + head]
            at += 2 + head
        else:
            found += data[at + 1 : at + 2] * (257 - head if head > 128 else 0)
            at += 2 if head > 128 else 1
    return np.frombuffer(found, np.uint8, size)
