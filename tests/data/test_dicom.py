"""Gray levels of DICOM objects, and what is refused."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pydicom = pytest.importorskip("pydicom", reason="needs the extra dicom")

from pydicom.uid import (  # noqa: E402
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
)

from agcnn_jax.data import dicom  # noqa: E402
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
from tests.programs import ROOT  # noqa: E402

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
        dicom.gray_film(dicom.read_header(example(f"{name}.dcm").read_bytes()))
        for name in ("vlut_04", "mlut_18")
    ]
    difference = np.abs(films[0].astype(int) - films[1])
    assert difference.mean() < 0.02
    assert set(np.unique(films[0])) >= {0, 255}


def test_lossless_jpeg_is_decoded():
    pytest.importorskip("gdcm", reason="needs python-gdcm")
    film = dicom.gray_film(dicom.read_header(example("JPEG-LL.dcm").read_bytes()))
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


def test_bits_outside_the_stored_ones_are_not_pixels():
    """Old files keep an overlay in the high bits."""
    noisy = VALUES | np.uint16(0xF000)
    plain = {"BitsStored": 12, "HighBit": 11, **WINDOW}
    expected = decode_film(encoded(radiograph(VALUES, **plain)))
    np.testing.assert_array_equal(decode_film(encoded(radiograph(noisy, **plain))), expected)


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


def test_every_truncation_is_refused():
    data = encoded(radiograph(np.zeros((8, 8), np.uint16)))
    for length in range(132, len(data) - 1, 7):
        with pytest.raises(UnreadableImageError):
            decode_film(data[:length])


def test_a_missing_package_is_named(monkeypatch):
    data = encoded(compressed(np.zeros((8, 8), np.uint8), JPEGBaseline8Bit, jpeg(np.zeros((8, 8)))))
    monkeypatch.setitem(sys.modules, "gdcm", None)
    with pytest.raises(UnreadableImageError, match=r"^compressed DICOM needs make install EXTRA=d"):
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
