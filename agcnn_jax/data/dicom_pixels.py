"""Stored values of a DICOM image: its samples, decompressed, without the bits that are none."""

from __future__ import annotations

import struct
import sys
from typing import Any, NamedTuple

import numpy as np

from agcnn_jax.data.dicom_header import EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, Header
from agcnn_jax.data.pixels import UnreadableImageError
from agcnn_jax.runtime.errors import packages_of

_RLE = "1.2.840.10008.1.2.5"
_JPEG = {f"1.2.840.10008.1.2.4.{number}": "JPEGCodec" for number in (50, 51, 53, 55, 57, 70)}
_JPEG_LS = {f"1.2.840.10008.1.2.4.{number}": "JPEGLSCodec" for number in (80, 81)}
_JPEG_2000 = {f"1.2.840.10008.1.2.4.{number}": "JPEG2000Codec" for number in (90, 91)}
_CODECS = _JPEG | _JPEG_LS | _JPEG_2000
_REFUSED = (
    ("1.2.840.10008.1.2.4.20", "HTJ2K"),
    ("1.2.840.10008.1.2.4.11", "JPEG XL"),
    ("1.2.840.10008.1.2.4.10", "video"),
    ("1.2.840.10008.1.2.4.92", "JPEG 2000 Part 2"),
    ("1.2.840.10008.1.2.4.93", "JPEG 2000 Part 2"),
    ("1.2.840.10008.1.2.4.9", "JPIP, whose pixels lie on a server"),
    ("1.2.840.10008.1.2.4.", "a retired JPEG process"),
    ("1.2.840.10008.1.2.7.", "SMPTE ST 2110"),
    ("1.2.840.10008.1.2.1.98", "encapsulated uncompressed"),
    ("1.2.840.10008.1.2.8.1", "deflated image frames"),
)
"""The standard's other transfer syntaxes (PS3.6, A), by the beginnings of their UIDs."""
_CUT = "truncated: the compressed pixel data ends early"
_NOT_SOF = (0xC4, 0xC8, 0xCC)  # JPEG's markers C0 to CF begin frames, but for these
_DHT, _DQT, _COMMENT = 0xC4, 0xDB, 0xFE
_SOS = b"\xff\xda"  # where the header ends
_END = b"\xff\xd9"  # both EOI (JPEG, JPEG-LS) and EOC (JPEG 2000)


class _Frame(NamedTuple):
    """The size and samples that a compressed frame declares."""

    height: int
    width: int
    components: int
    precision: int
    signed: bool
    whole: bool


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
    elif syntax not in _CODECS and syntax != _RLE:
        raise UnreadableImageError(f"transfer syntax {_name_of(syntax)}: not decoded")
    elif not fragments:
        raise UnreadableImageError("damaged: compressed pixel data without a fragment")
    elif syntax == _RLE:
        samples = _run_lengths(b"".join(fragments), header, allocated)
    else:
        size = header.required("Rows"), header.required("Columns")
        samples, frame = _decompress(b"".join(fragments), *size, syntax)
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
        raise UnreadableImageError(_CUT)
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
    plane = bytearray()
    at = 0
    while len(plane) < size:
        if at + 1 >= len(data):
            raise UnreadableImageError(_CUT)
        head = data[at]
        if head < 128:
            plane += data[at + 1 : at + 2 + head]
            at += 2 + head
        else:
            plane += data[at + 1 : at + 2] * (257 - head if head > 128 else 0)
            at += 2 if head > 128 else 1
    return np.frombuffer(plane, np.uint8, size)


def _name_of(syntax: str) -> str:
    """Return the standard's name of a transfer syntax that is not decoded, or "unknown"."""
    return next((name for uid, name in _REFUSED if syntax.startswith(uid)), "unknown")


def _decompress(data: bytes, rows: int, columns: int, syntax: str) -> tuple[np.ndarray, _Frame]:
    """Decode a JPEG, JPEG-LS or JPEG 2000 frame with gdcm.

    Args:
        data: the codestream.
        rows: the height that the DICOM header declares, in pixels.
        columns: the width that it declares.
        syntax: one of `_CODECS`.

    Returns:
        Unsigned integers `[rows, columns]`, of which `_Frame.precision` bits count, and the frame.

    Raises:
        UnreadableImageError: truncated, damaged, in colour, of another size, or gdcm is missing.
    """
    try:
        bare = data.rstrip(b"\0")  # fragments are padded to an even length
        frame, data = _j2k_frame(bare) if syntax in _JPEG_2000 else _jpeg_frame(bare)
    except (IndexError, struct.error):  # the frame's header is cut
        raise UnreadableImageError(_CUT) from None
    if frame.components != 1:
        raise UnreadableImageError("a DICOM object in colour")
    if (frame.height, frame.width) != (rows, columns):
        raise UnreadableImageError("pixel data of another size than Rows x Columns")
    if not 1 <= frame.precision <= 16:
        raise UnreadableImageError("a DICOM object of more than 16 bits")
    if not frame.whole:
        raise UnreadableImageError(_CUT)
    gdcm = _gdcm()
    # The JPEG codec of gdcm 3.2 chooses its library of 8, 12 or 16 bits by the bits allocated.
    width = 8 if frame.precision <= 8 else 16
    allocated = 12 if syntax in _JPEG and 8 < frame.precision <= 12 else width
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(data)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    coded, decoded = (gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010)) for _ in range(2))
    coded.SetValue(fragments.__ref__())
    codec = getattr(gdcm, _CODECS[syntax])()
    codec.SetNumberOfDimensions(2)
    codec.SetDimensions((columns, rows, 1))
    # All bits are stored ones, whatever the precision: another number ends the process, too.
    codec.SetPixelFormat(gdcm.PixelFormat(1, allocated, allocated, allocated - 1, frame.signed))
    kind = gdcm.PhotometricInterpretation.GetPIType("MONOCHROME2")  # whatever it is: no inversion
    codec.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    if not codec.Decode(coded, decoded):
        raise UnreadableImageError("damaged: compressed pixel data that cannot be decoded")
    # gdcm returns char* as str.
    samples = decoded.GetByteValue().GetBuffer().encode("utf-8", "surrogateescape")
    if len(samples) < rows * columns * width // 8:
        raise UnreadableImageError(_CUT)
    array = np.frombuffer(samples, f"<u{width // 8}", rows * columns).reshape(rows, columns)
    return array, frame


def _jpeg_frame(data: bytes) -> tuple[_Frame, bytes]:
    """Read the frame header of JPEG or JPEG-LS (ISO 10918-1, B.2.2; 14495-1, C.2.2).

    Returns:
        The frame, and the codestream without what applications and people add. gdcm 3.2 ends the
        whole process where libjpeg warns of a header, such as of an application's data.
    """
    if data[:2] != b"\xff\xd8":
        raise UnreadableImageError("damaged: compressed pixel data of another kind than declared")
    at, frame, bare = 2, (0, 0, 0, 0), data[:2]
    while data[at : at + 2] != _SOS:
        marker = data[at + 1]
        if data[at] == marker == 0xFF:  # a fill byte
            at += 1
            continue
        # Of the others, markers below C0 and from D0 to D9 have no segment, or no place here.
        if data[at] != 0xFF or marker < 0xC0 or 0xD0 <= marker <= 0xD9:
            raise UnreadableImageError("damaged: compressed pixel data that cannot be decoded")
        if (0xC0 <= marker <= 0xCF and marker not in _NOT_SOF) or marker == 0xF7:
            frame = struct.unpack_from(">BHHB", data, at + 4)
        end = at + 2 + struct.unpack_from(">H", data, at + 2)[0]
        if end > len(data):
            raise UnreadableImageError(_CUT)
        if not _has_whole_tables(marker, data[at + 4 : end]):
            raise UnreadableImageError("damaged: compressed pixel data that cannot be decoded")
        if not (0xE0 <= marker <= 0xEF or marker == _COMMENT):
            bare += data[at:end]
        at = end
    precision, height, width, components = frame
    whole = _END in data[at:]
    return _Frame(height, width, components, precision, False, whole), bare + data[at:]


def _has_whole_tables(marker: int, segment: bytes) -> bool:
    """Return False if tables for quantisation or Huffman codes do not fill their segment."""
    at = 0
    while marker in (_DHT, _DQT) and at < len(segment):
        if marker == _DQT:
            at += 129 if segment[at] > 15 else 65
        else:
            at += 17 + sum(segment[at + 1 : at + 17])
    return at == len(segment) or marker not in (_DHT, _DQT)


def _j2k_frame(data: bytes) -> tuple[_Frame, bytes]:
    """Read the main header of JPEG 2000 and hop over its tile-parts (ISO 15444-1, A.4, A.5)."""
    at = data.find(b"\xff\x4f\xff\x51")
    if at < 0 and len(data) > 4:
        raise UnreadableImageError("damaged: compressed pixel data of another kind than declared")
    x1, y1, x0, y0 = struct.unpack_from(">4I", data, at + 8)
    components, depth = struct.unpack_from(">HB", data, at + 40)
    at += 2
    while data[at : at + 2] != b"\xff\x90":
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    whole = False
    while data[at : at + 2] == b"\xff\x90":
        (length,) = struct.unpack_from(">I", data, at + 6)
        if length == 0:  # to the end of the codestream
            whole = _END in data[at:]
            break
        at += length
        whole = data[at : at + 2] == _END
    return _Frame(y1 - y0, x1 - x0, components, (depth & 127) + 1, depth > 127, whole), data


def _gdcm() -> Any:
    """Import gdcm."""
    if "gdcm" not in sys.modules:
        # gdcm 3 imports a module `dl`, which Python lost long ago: one in the current folder would
        # run. None makes the import fail.
        sys.modules.setdefault("dl", None)  # type: ignore[arg-type]
        sys.modules.setdefault("DLFCN", None)  # type: ignore[arg-type]
    try:
        import gdcm
    except ImportError:
        raise UnreadableImageError(f"compressed DICOM needs {packages_of('dicom')}") from None
    for off in (gdcm.Trace.DebugOff, gdcm.Trace.WarningOff, gdcm.Trace.ErrorOff):
        off()  # they print to stderr
    return gdcm
