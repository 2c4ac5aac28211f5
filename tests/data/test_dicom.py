"""Gray levels of DICOM objects, and what is refused."""

import io
import struct
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pydicom = pytest.importorskip("pydicom", reason="needs the extra dicom")

from pydicom.uid import (  # noqa: E402
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    MediaStorageDirectoryStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from agcnn_jax.data import dicom  # noqa: E402
from agcnn_jax.data.dicom_header import is_dicom, is_directory, read_header  # noqa: E402
from agcnn_jax.data.films import decode_film, load_film  # noqa: E402
from agcnn_jax.data.pixels import UnreadableImageError  # noqa: E402
from tests.data.dicom_files import (  # noqa: E402
    PATIENT,
    compressed,
    encoded,
    jpeg,
    lookup,
    radiograph,
)
from tests.support.programs import ROOT  # noqa: E402
from tests.support.shared import DICOM_FILMS  # noqa: E402

VALUES = np.array([[0, 100, 150], [200, 4000, 4095]], np.uint16)
WINDOW = {"WindowCenter": 150, "WindowWidth": 101}


def example(name):
    folder = pytest.importorskip("data_store", reason="needs pydicom-data 1.0.0")
    return Path(folder.__file__).parent / "data" / name


@pytest.mark.parametrize("kind", ["R", "I"])
def test_compressed_and_uncompressed_film_are_equal(kind):
    pytest.importorskip("gdcm", reason="needs python-gdcm")
    film = load_film(example(f"RG1_UNC{kind}.dcm"))
    assert film.shape == (1955, 1841) and film.dtype == np.uint8
    np.testing.assert_array_equal(load_film(example(f"RG1_J2K{kind}.dcm")), film)
    # MONOCHROME1: the lung is dark, the spine bright.
    assert film[500:600, 500:600].mean() + 80 < film[1000:1100, 850:900].mean()


@pytest.mark.parametrize(
    ("name", "modality"),
    [("vlut_04.dcm", "OT"), ("mlut_18.dcm", "OT"), ("JPEG-LL.dcm", "NM"), ("MR2_UNCR.dcm", "MR")],
)
def test_other_modalities_are_refused_by_name(name, modality):
    with pytest.raises(UnreadableImageError, match=rf"^modality {modality}, not one of CR, DX"):
        load_film(example(name))


def test_published_luts_are_applied():
    """A test pattern, whose LUTs turn every other encoding of it into the same picture."""
    films = [
        dicom.gray_film(read_header(example(f"{name}.dcm").read_bytes()))
        for name in ("vlut_04", "mlut_18")
    ]
    difference = np.abs(films[0].astype(int) - films[1])
    assert difference.mean() < 0.02
    assert set(np.unique(films[0])) >= {0, 255}


def test_lossless_jpeg_is_decoded():
    pytest.importorskip("gdcm", reason="needs python-gdcm")
    film = dicom.gray_film(read_header(example("JPEG-LL.dcm").read_bytes()))
    assert film.shape == (1024, 256)
    assert (film.min(), film.max()) == (0, 255)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        # Neither LUT nor window: from the smallest to the largest value.
        ({}, VALUES / 4095),
        # c - 0.5 = 149.5 and w - 1 = 100: values up to 99.5 are black, those above 199.5 white.
        (WINDOW, [[0, 0.005, 0.505], [1, 1, 1]]),
        ({**WINDOW, "VOILUTFunction": "LINEAR_EXACT"}, [[0, 1 / 202, 0.5], [201 / 202, 1, 1]]),
        (
            {**WINDOW, "VOILUTFunction": "SIGMOID"},
            1 / (1 + np.exp(-4 * (VALUES.astype(float) - 150) / 101)),
        ),
        ({"WindowCenter": 150, "WindowWidth": 1}, [[0, 0, 1], [1, 1, 1]]),
        # The first of several windows.
        ({"WindowCenter": [150, 9], "WindowWidth": [101, 7]}, [[0, 0.005, 0.505], [1, 1, 1]]),
        # Windows without a width, or that are no numbers, do not count.
        ({"WindowCenter": [9, 150], "WindowWidth": [0, 101]}, [[0, 0.005, 0.505], [1, 1, 1]]),
        ({"WindowCenter": 150, "WindowWidth": 0}, VALUES / 4095),
        ({"WindowCenter": float("nan"), "WindowWidth": 101}, VALUES / 4095),
        # Padding takes no part in the smallest and largest value, and is shown as the nearest.
        ({"PixelPaddingValue": 0}, [[0, 0, 50 / 3995], [100 / 3995, 3900 / 3995, 1]]),
        (
            {"PixelPaddingValue": 4095, "PixelPaddingRangeLimit": 4000},
            [[0, 0.5, 0.75], [1, 1, 1]],
        ),
        ({"PixelPaddingValue": 0, **WINDOW}, [[0, 0.005, 0.505], [1, 1, 1]]),
        # Rescaled to -1000, -800, -700, -600, 7000 and 7190 before the window.
        (
            {
                "RescaleSlope": 2,
                "RescaleIntercept": -1000,
                "WindowCenter": -699.5,
                "WindowWidth": 201,
            },
            [[0, 0, 0.5], [1, 1, 1]],
        ),
        # A LUT for the values 100 to 103; those outside take its ends.
        (
            {"VOILUTSequence": [lookup([10, 20, 30, 40], 100)]},
            np.array([[10, 10, 40], [40, 40, 40]]) / 255,
        ),
        ({"VOILUTSequence": [lookup([0, 4095], 150, 12)], **WINDOW}, [[0, 0, 0], [1, 1, 1]]),
        # The modality LUT comes first: 0 to 3 become 0, 40, 80 and 120.
        (
            {"ModalityLUTSequence": [lookup([0, 40, 80, 120], 0, 8, ModalityLUTType="US")]},
            np.array([[0, 1, 1], [1, 1, 1]]),
        ),
    ],
)
@pytest.mark.parametrize("inverted", [False, True])
def test_gray_levels_are_the_standards(attributes, expected, inverted):
    """Against values worked out by hand from PS3.3."""
    shares = np.asarray(expected, float)
    if inverted:
        attributes = {**attributes, "PhotometricInterpretation": "MONOCHROME1"}
        shares = 1 - shares
    found = decode_film(encoded(radiograph(VALUES, **attributes)))
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found, 255 * shares, atol=0.500001)


def test_signed_values():
    values = np.array([[-1000, 0], [500, 1000]], np.int16)
    film = decode_film(encoded(radiograph(values, WindowCenter=0.5, WindowWidth=1001)))
    np.testing.assert_array_equal(film, [[0, 128], [255, 255]])


def test_negative_padding_and_a_film_of_nothing_else():
    values = np.array([[-2000, 0], [500, 1000]], np.int16)
    film = decode_film(encoded(radiograph(values, PixelPaddingValue=-2000)))
    np.testing.assert_array_equal(film, [[0, 0], [128, 255]])
    film = decode_film(encoded(radiograph(np.full((2, 2), 7, np.uint16), PixelPaddingValue=7)))
    np.testing.assert_array_equal(film, np.zeros((2, 2)))


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
@pytest.mark.parametrize("name", ["monochrome1", "Monochrome2"])
def test_small_letters_of_the_photometric_interpretation(name):
    expected = decode_film(encoded(radiograph(VALUES, PhotometricInterpretation=name.upper())))
    found = decode_film(encoded(radiograph(VALUES, PhotometricInterpretation=name)))
    np.testing.assert_array_equal(found, expected)


RAMP = np.array([[0, 1, 2], [3, 4000, 65535]], np.uint16)
SIGNED = np.array([[-32768, -101, -100], [-98, 0, 32767]], np.int16)
TABLE = np.arange(256)


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize(
    ("pixels", "attributes", "expected"),
    [
        # Indices do not wrap in the dtype of the entries: 8 bits, packed two a word, or not.
        (RAMP, {"VOILUTSequence": [lookup(TABLE)]}, [[0, 1, 2], [3, 255, 255]]),
        (RAMP, {"VOILUTSequence": [lookup(TABLE, packed=True)]}, [[0, 1, 2], [3, 255, 255]]),
        (RAMP, {"VOILUTSequence": [lookup([9, 50, 255], packed=True)]}, [[9, 50, 255], [255] * 3]),
        # An index of 3 * 65535 is above all.
        (
            RAMP,
            {"RescaleSlope": 3, "RescaleIntercept": 0, "VOILUTSequence": [lookup(TABLE)]},
            [[0, 3, 6], [9, 255, 255]],
        ),
        # A first value below 0, of unsigned pixels too.
        (RAMP, {"VOILUTSequence": [lookup(TABLE, -100)]}, [[100, 101, 102], [103, 255, 255]]),
        (SIGNED, {"VOILUTSequence": [lookup(TABLE, -100)]}, [[0, 0, 0], [2, 100, 255]]),
        (
            SIGNED,
            {
                "RescaleSlope": 1,
                "RescaleIntercept": 32768,
                "VOILUTSequence": [lookup(TABLE, 32668)],
            },
            [[0, 0, 0], [2, 100, 255]],
        ),
        # Written as unsigned, though the values are signed: 65436 stands for -100.
        (SIGNED, {"VOILUTSequence": [lookup(TABLE, 65436)]}, [[0, 0, 0], [2, 100, 255]]),
        (RAMP, {"VOILUTSequence": [lookup(TABLE, 65436)]}, [[0, 0, 0], [0, 0, 99]]),
        # What a modality LUT returns is unsigned: white stays white.
        (
            SIGNED,
            {
                "ModalityLUTSequence": [lookup([0, 100, 65535], -100, 16, ModalityLUTType="US")],
                "WindowCenter": 32768,
                "WindowWidth": 65536,
            },
            [[0, 0, 0], [255, 255, 255]],
        ),
        # Entries of 12 bits; and a VOI LUT behind, whose first value is unsigned.
        (
            SIGNED,
            {
                "ModalityLUTSequence": [lookup([0, 2047, 4095], -100, 12, ModalityLUTType="US")],
                "WindowCenter": 2048,
                "WindowWidth": 4096,
            },
            [[0, 0, 0], [255, 255, 255]],
        ),
        (
            SIGNED,
            {
                "ModalityLUTSequence": [lookup([9, 50, 65535], -100, 16, ModalityLUTType="US")],
                "VOILUTSequence": [lookup([0, 77, 255], 65533)],
            },
            [[0, 0, 0], [255, 255, 255]],
        ),
        # Bits that the entries exceed, and bits that no entry has.
        (RAMP, {"VOILUTSequence": [lookup([0, 1, 1023], 0, 8)]}, [[0, 0.25, 255], [255] * 3]),
        (RAMP, {"VOILUTSequence": [lookup([0, 1, 255], 0, 0)]}, [[0, 1, 255], [255] * 3]),
        # An empty item is none, and neither is one whose table is missing.
        (
            RAMP,
            {"VOILUTSequence": [pydicom.Dataset(), lookup(TABLE)]},
            [[0, 1, 2], [3, 255, 255]],
        ),
        (
            np.array([[99, 100], [150, 200]], np.uint16),
            {"VOILUTSequence": [pydicom.Dataset()], **WINDOW},
            [[0, 255 * 0.005], [255 * 0.505, 255]],
        ),
        # Empty numbers are none.
        (RAMP, {"RescaleSlope": "", "RescaleIntercept": 9}, RAMP / 257),
        (
            RAMP,
            {"WindowCenter": [32768, ""], "WindowWidth": [65536, ""]},
            RAMP / 257,
        ),
    ],
)
def test_lookup_tables_and_empty_values(pixels, attributes, expected, inverted):
    """Against values worked out by hand from PS3.3, C.11.1 and C.11.2."""
    expected = np.asarray(expected, float)
    if inverted:
        attributes = {**attributes, "PhotometricInterpretation": "MONOCHROME1"}
        expected = 255 - expected
    found = decode_film(encoded(radiograph(pixels, **attributes)))
    np.testing.assert_allclose(found, expected, atol=0.500001)


@pytest.mark.parametrize("interpretation", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("shape", "inverse"), [("IDENTITY", False), ("INVERSE", True)])
def test_the_presentation_lut_shape_decides_the_contrast(interpretation, shape, inverse):
    film = decode_film(
        encoded(
            radiograph(VALUES, PresentationLUTShape=shape, PhotometricInterpretation=interpretation)
        )
    )
    assert film[0, 0] == (255 if inverse else 0)
    assert film[1, 2] == (0 if inverse else 255)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(
    ("allocated", "stored", "high"),
    [(16, 12, 11), (16, 12, 15), (16, 12, 13), (16, 8, 15), (16, 8, 8), (8, 6, 7), (8, 6, 5)],
)
def test_bits_outside_the_stored_ones_are_not_pixels(allocated, stored, high, signed):
    """Old files keep an overlay there, above or below."""
    first = -(1 << stored - 1) if signed else 0
    values = first + np.arange(64).reshape(8, 8) * ((1 << stored) - 1) // 63
    shift = high + 1 - stored
    bits = ((1 << stored) - 1) << shift
    noise = np.random.default_rng(stored).integers(0, 1 << allocated, values.shape)
    words = (((values << shift) & bits) | (noise & ~bits)).astype(f"u{allocated // 8}")
    film = decode_film(
        encoded(radiograph(words, BitsStored=stored, HighBit=high, PixelRepresentation=int(signed)))
    )
    shares = (values - first) / ((1 << stored) - 1)
    np.testing.assert_allclose(film, 255 * shares, atol=0.500001)


def test_a_missing_high_bit_is_that_of_the_stored_bits():
    expected = decode_film(encoded(radiograph(VALUES, BitsStored=12, HighBit=11)))
    for high in (None, 0):
        found = decode_film(encoded(radiograph(VALUES, BitsStored=12, HighBit=high)))
        np.testing.assert_array_equal(found, expected)


def test_run_length_and_baseline_jpeg():
    pixels = np.repeat(np.arange(64, dtype=np.uint8) * 4, 64).reshape(64, 64)
    expected = decode_film(encoded(radiograph(pixels, WindowCenter=128, WindowWidth=256)))
    np.testing.assert_array_equal(expected, pixels)
    dataset = radiograph(pixels, WindowCenter=128, WindowWidth=256)
    dataset.compress(RLELossless, encoding_plugin="pydicom")
    np.testing.assert_array_equal(decode_film(encoded(dataset)), pixels)
    pytest.importorskip("gdcm", reason="needs python-gdcm")
    stream = jpeg(pixels)
    dataset = compressed(pixels, JPEGBaseline8Bit, stream, WindowCenter=128, WindowWidth=256)
    with Image.open(io.BytesIO(stream)) as image:
        np.testing.assert_allclose(decode_film(encoded(dataset)), np.asarray(image), atol=1)


def deflated():
    dataset = radiograph(VALUES)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    return dataset


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: radiograph(VALUES, Modality="CT"), "^modality CT, not one of CR, DX, RG, SC$"),
        (lambda: radiograph(VALUES, Modality="DOE JANE"), "^modality unknown"),
        (
            lambda: radiograph(VALUES, Modality=None, SOPClassUID=CTImageStorage),
            "^no modality .of CR, DX, RG, SC., and not the storage class of a radiograph$",
        ),
        (lambda: radiograph(VALUES, NumberOfFrames=2), "several frames"),
        (lambda: radiograph(VALUES, SamplesPerPixel=3), "colour"),
        (lambda: radiograph(VALUES, PhotometricInterpretation="PALETTE COLOR"), "colour"),
        (lambda: radiograph(VALUES, BitsAllocated=32), "neither 8 nor 16 bits"),
        (
            lambda: radiograph(VALUES, PixelData=None),
            "^no pixels: .* truncated, or holds no image$",
        ),
        (lambda: radiograph(VALUES, PixelData=b"\0\0"), "^truncated: 2 of 12 bytes of pixel data$"),
        (lambda: radiograph(VALUES, Rows=50_000, Columns=50_000), "claims 50000 x 50000 pixels"),
        (lambda: radiograph(VALUES, Modality="DOE"), "^modality unknown"),
        (lambda: radiograph(VALUES, PixelData=VALUES.tobytes() * 2), "another size than Rows"),
        (lambda: radiograph(VALUES, **WINDOW, VOILUTFunction="CUBIC"), "not in the standard"),
        (deflated, "deflated"),
    ],
)
def test_what_is_refused(make, reason):
    with pytest.raises(UnreadableImageError, match=reason) as refused:
        decode_film(encoded(make()))
    assert PATIENT.split("^")[0] not in str(refused.value)


def implicit(dataset):
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return dataset


def big_endian(dataset, pixels):
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    dataset.PixelData = pixels.byteswap().tobytes()
    return dataset


def run_lengths(dataset):
    dataset.compress(RLELossless, encoding_plugin="pydicom")
    return dataset


SMALL = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1040
SMALL_8 = (SMALL >> 8).astype(np.uint8)


@pytest.mark.parametrize(
    "make",
    [
        lambda: radiograph(SMALL, VOILUTSequence=[lookup(TABLE)]),
        lambda: implicit(radiograph(SMALL, VOILUTSequence=[lookup(TABLE)])),
        lambda: big_endian(radiograph(SMALL), SMALL),
        lambda: run_lengths(radiograph(SMALL)),
        lambda: compressed(SMALL_8, JPEGBaseline8Bit, jpeg(SMALL_8)),
        lambda: compressed(SMALL, JPEG2000Lossless, jpeg(SMALL, "JPEG2000")),
    ],
)
def test_every_truncation_is_called_one(make):
    """Wherever the file ends, from the end of the preamble on."""
    pytest.importorskip("gdcm", reason="needs python-gdcm")
    data = encoded(make())
    assert decode_film(data).shape == (8, 8)
    for length in range(132, len(data)):
        with pytest.raises(UnreadableImageError, match="truncated"):
            decode_film(data[:length])


@pytest.mark.parametrize(
    ("syntax", "codestream"),
    [
        (JPEGBaseline8Bit, jpeg(SMALL_8)),
        (JPEG2000Lossless, jpeg(SMALL, "JPEG2000")),
        (RLELossless, struct.pack("<16I", 2, 64, 66, *13 * [0]) + b"\xc1\1\xc1\2"),
    ],
)
def test_a_codestream_cut_short_is_called_truncated(syntax, codestream):
    """In a file that is whole, such as one that was written from what a transfer left."""
    pixels = SMALL_8 if syntax == JPEGBaseline8Bit else SMALL
    assert decode_film(encoded(compressed(pixels, syntax, codestream))).shape == (8, 8)
    for length in range(2, len(codestream) - 1):
        data = encoded(compressed(pixels, syntax, codestream[:length]))
        with pytest.raises(UnreadableImageError, match=r"^truncated: the compressed pixel data"):
            decode_film(data)


def test_a_damaged_jpeg_does_not_end_the_process(tmp_path):
    """gdcm 3.2 would: nothing catches what it throws where libjpeg warns of a header."""
    pytest.importorskip("gdcm", reason="needs python-gdcm")
    whole = jpeg(SMALL_8)
    tables = whole.index(b"\xff\xdb")
    for name, codestream in {
        "unknown_jfif": whole.replace(b"JFIF\0\1", b"JFIF\0\x46"),
        "restart_marker": whole[:tables] + b"\xff\xd0\0\4\0\0" + whole[tables:],
        "table_too_short": whole.replace(b"\xff\xdb\0\x43", b"\xff\xdb\0\x42"),
    }.items():
        (tmp_path / name).write_bytes(encoded(compressed(SMALL_8, JPEGBaseline8Bit, codestream)))
    code = f"""
import sys
sys.path.append({str(ROOT)!r})
from agcnn_jax.data.films import load_film
from agcnn_jax.data.pixels import UnreadableImageError
for name in ("unknown_jfif", "restart_marker", "table_too_short"):
    try:
        print(load_film(name).shape)
    except UnreadableImageError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    damaged = "damaged: compressed pixel data that cannot be decoded"
    assert done.stdout.splitlines() == ["(8, 8)", damaged, damaged]
    assert not done.stderr


@pytest.mark.parametrize(
    "keyword",
    [
        "PhotometricInterpretation",
        "Rows",
        "Columns",
        "BitsAllocated",
        "BitsStored",
        "PixelRepresentation",
    ],
)
def test_a_missing_attribute_is_named(keyword):
    data = encoded(radiograph(VALUES))
    tag = pydicom.tag.Tag(keyword)
    start = data.index(struct.pack("<HH", tag.group, tag.element))
    size = 8 + struct.unpack_from("<H", data, start + 6)[0]
    with pytest.raises(UnreadableImageError, match=f"^a DICOM object without {keyword}$"):
        decode_film(data[:start] + data[start + size :])


@pytest.mark.parametrize(
    ("syntax", "name"),
    [
        ("1.2.840.10008.1.2.4.201", "HTJ2K"),
        ("1.2.840.10008.1.2.4.112", "JPEG XL"),
        ("1.2.840.10008.1.2.4.100", "video"),
        ("9.9.999.99999.9.9.9.999", "unknown"),
    ],
)
def test_other_transfer_syntaxes_are_refused_by_name(syntax, name):
    data = encoded(compressed(SMALL_8, HTJ2KLossless, b"\0" * 64))
    data = data.replace(HTJ2KLossless.encode(), syntax.encode())
    with pytest.raises(UnreadableImageError, match=f"^transfer syntax {name}: not decoded$"):
        decode_film(data)


def test_an_object_without_samples_per_pixel_is_gray():
    film = decode_film(encoded(radiograph(VALUES, SamplesPerPixel=None)))
    np.testing.assert_array_equal(film, decode_film(encoded(radiograph(VALUES))))


@pytest.mark.parametrize(
    "storage",
    [
        ComputedRadiographyImageStorage,
        DigitalXRayImageStorageForPresentation,
        DigitalXRayImageStorageForProcessing,
        SecondaryCaptureImageStorage,
        MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    ],
)
def test_an_anonymised_radiograph_needs_no_modality(storage):
    expected = decode_film(encoded(radiograph(VALUES)))
    for modality in (None, ""):
        data = encoded(radiograph(VALUES, Modality=modality, SOPClassUID=storage))
        np.testing.assert_array_equal(decode_film(data), expected)


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
def test_small_letters_of_the_modality():
    expected = decode_film(encoded(radiograph(VALUES)))
    np.testing.assert_array_equal(decode_film(encoded(radiograph(VALUES, Modality="dx"))), expected)


@pytest.mark.parametrize("make", [radiograph, lambda x: implicit(radiograph(x))])
def test_files_without_preamble_or_meta_information(make):
    data = encoded(make(SMALL))
    expected = decode_film(data)
    meta = 144 + struct.unpack_from("<I", data, 140)[0]
    for start in (128, 132, meta):  # the prefix alone, the meta information, the object
        np.testing.assert_array_equal(decode_film(data[start:]), expected)


@pytest.mark.parametrize(
    "data",
    [
        b"\x08\0\x05\0CS\x0a\0ISO_IR 100" * 20,
        b"\x08\0\x16\0UI\x04\x001.2\0" * 20,
        b"\x02\0\0\0" * 100,
        bytes(range(256)) * 4,
        b"\0" * 400,
    ],
)
def test_what_is_not_dicom_beyond_doubt_is_none(data):
    assert not is_dicom(data)
    with pytest.raises(UnreadableImageError, match="not a PNG, JPEG, TIFF or DICOM file"):
        decode_film(data)


def test_a_directory_is_refused_by_name():
    dataset = radiograph(VALUES, SOPClassUID=None, PixelData=None, Modality=None)
    dataset.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    data = encoded(dataset)
    assert is_directory(data) and not is_directory(encoded(radiograph(VALUES)))
    with pytest.raises(UnreadableImageError, match="directory"):
        decode_film(data)


@pytest.mark.filterwarnings("error")
def test_nothing_of_the_header_is_warned_of_or_logged(caplog, capfd):
    """Threads that decode at the same time share warning filters, so there must be no warning."""
    dataset = radiograph(VALUES, **WINDOW)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.SpecificCharacterSet = "ISO_IR 100\\Quux"
        dataset.VOILUTFunction = "linear"
        data = encoded(dataset).replace(b"101 ", b"101x").replace(b"CR", b"cr")
    data = data.replace(b"QX-4711", b"QX\xff4711")
    caplog.clear()
    caplog.set_level("DEBUG")
    with ThreadPoolExecutor(8) as pool:
        films = list(pool.map(decode_film, 50 * [data]))
    assert all((film == films[0]).all() for film in films)
    assert not caplog.records and capfd.readouterr() == ("", "")


@pytest.mark.skipif(
    not DICOM_FILMS.is_dir(), reason=f"no reference films: {DICOM_FILMS} does not exist"
)
def test_reference_films(capfd):
    """Against gray levels from the standard's arithmetic, where DCMTK agrees."""
    pytest.importorskip("gdcm", reason="needs python-gdcm")
    same = ("no_preamble", "no_SamplesPerPixel", "mod_lower")
    for path in sorted(DICOM_FILMS.glob("*.dcm")):
        if path.stem == "trunc_file_j2k":
            with pytest.raises(UnreadableImageError, match=r"^truncated"):
                load_film(path)
            continue
        with Image.open(
            DICOM_FILMS / f"{'rescale_empty' if path.stem in same else path.stem}.png"
        ) as x:
            difference = np.abs(load_film(path).astype(int) - np.asarray(x))
        if path.stem == "jpeg12":
            assert difference.mean() <= 1, path.stem
        else:
            assert difference.max() <= (0 if path.stem in same else 2), path.stem
    assert capfd.readouterr() == ("", "")


def test_a_missing_package_is_named(monkeypatch):
    data = encoded(compressed(np.zeros((8, 8), np.uint8), JPEGBaseline8Bit, jpeg(np.zeros((8, 8)))))
    monkeypatch.setitem(sys.modules, "gdcm", None)
    with pytest.raises(
        UnreadableImageError, match=r"^compressed DICOM needs python-gdcm .*EXTRA=d"
    ):
        decode_film(data)


def test_a_module_of_the_current_folder_does_not_run(tmp_path):
    """gdcm 3 imports `dl`, which is in no Python 3."""
    (tmp_path / "dl.py").write_text("open('ran', 'w')\n")
    (tmp_path / "film.dcm").write_bytes(encoded(radiograph(VALUES)))
    code = "from agcnn_jax.data.films import load_film; print(load_film('film.dcm').max())"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.append({str(ROOT)!r}); {code}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "255\n"
    assert not (tmp_path / "ran").exists()
