"""Reading one film: gray levels, sizes, damage."""

import io
import os
import random
import signal
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from agcnn_jax.data.films import (
    WrongSizeError,
    decode_film,
    load_film,
    read_film,
    resize_film,
)
from agcnn_jax.data.pixels import MAX_BYTES, UnreadableImageError
from tests.data_prep.nih_files import (
    pixels,
    png,
)

try:
    from tests.data import dicom_files
except ImportError:  # without the extra dicom
    dicom_files = None


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), side=st.integers(8, 80), compress=st.integers(0, 9))
def test_gray_image_equals_pillows(seed, side, compress):
    array = pixels(seed, side)
    expected = Image.fromarray(array).resize((8, 8), Image.Resampling.BILINEAR)
    image, found = read_film(png(array, compress_level=compress), 8)
    np.testing.assert_array_equal(image, expected if side != 8 else array)
    assert found == side and image.dtype == np.uint8


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_color_modes_give_the_same_gray(mode):
    array = pixels(1)
    alpha = pixels(2)
    bands = {"RGB": [array] * 3, "RGBA": [array] * 3 + [alpha], "LA": [array, alpha]}[mode]
    np.testing.assert_array_equal(read_film(png(np.stack(bands, -1)), 64)[0], array)


def test_palette_and_bilevel():
    array = pixels(3)
    palette = Image.fromarray(array)
    palette = palette.convert("P")
    buffer = io.BytesIO()
    palette.save(buffer, "PNG")
    np.testing.assert_array_equal(read_film(buffer.getvalue(), 64)[0], array)
    buffer = io.BytesIO()
    Image.fromarray(array > 127).save(buffer, "PNG")
    np.testing.assert_array_equal(read_film(buffer.getvalue(), 64)[0], 255 * (array > 127))


def test_sixteen_bit_is_scaled_linearly():
    array = pixels(4)
    deep = array.astype(np.uint16) * 257
    np.testing.assert_array_equal(read_film(png(deep), 64)[0], array)
    ramp = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
    np.testing.assert_array_equal(read_film(png(ramp), 64)[0], np.rint(ramp / 257))


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(1, 4000))
def test_every_truncation_is_detected(cut):
    whole = png(pixels(5))
    with pytest.raises(UnreadableImageError):
        read_film(whole[: -min(cut, len(whole))], 32)


@settings(max_examples=60, deadline=None)
@given(position=st.integers(8, 4000), bit=st.integers(0, 7), deep=st.booleans())
def test_every_flipped_bit_is_detected(position, bit, deep):
    whole = bytearray(png(pixels(6).astype(np.uint16) if deep else pixels(6)))
    whole[position % (len(whole) - 8) + 8] ^= 1 << bit
    with pytest.raises(UnreadableImageError):
        read_film(bytes(whole), 32)


def test_decompression_bomb_and_missing_pixels_are_unreadable():
    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    def film(side, rows, bits, colour, samples):
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, bits, colour, 0, 0, 0))
        palette = chunk(b"PLTE", bytes(768))
        body = zlib.compress(bytes(rows * (1 + 64 * bits * samples // 8)))
        return b"\x89PNG\r\n\x1a\n" + head + palette + chunk(b"IDAT", body) + chunk(b"IEND", b"")

    with pytest.raises(UnreadableImageError, match="claims 100000 x 100000"):
        read_film(film(100_000, 10, 8, 0, 1), 32)
    for colour, samples in ((0, 1), (2, 3), (3, 1), (4, 2), (6, 4)):
        for bits in (8,) if colour == 3 else (8, 16):
            if colour in (2, 3, 6):  # gray has no palette
                assert read_film(film(64, 64, bits, colour, samples), 64)[0].shape == (64, 64)
            with pytest.raises(UnreadableImageError, match="pixels are missing"):
                read_film(film(64, 63, bits, colour, samples), 32)


def test_an_animated_png_is_refused():
    data = packed(Image.fromarray(pixels(1)), "PNG")
    two = io.BytesIO()
    other = [Image.fromarray(pixels(2))]
    Image.fromarray(pixels(1)).save(two, "PNG", save_all=True, append_images=other)
    np.testing.assert_array_equal(decode_film(data), pixels(1))
    with pytest.raises(UnreadableImageError, match="several pictures"):
        decode_film(two.getvalue())


@pytest.mark.parametrize("kind", [b"gAMA", b"sBIT", b"bKGD", b"tRNS"])
def test_chunks_about_display_do_not_change_pixels(kind):
    body = {b"gAMA": b"\0\0\xb1\x8f", b"sBIT": b"\5", b"bKGD": b"\0\1", b"tRNS": b"\0\7"}[kind]
    whole = png(pixels(8))
    extra = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    np.testing.assert_array_equal(read_film(whole[:33] + extra + whole[33:], 64)[0], pixels(8))


def test_wrong_size():
    with pytest.raises(WrongSizeError, match="not square"):
        read_film(png(pixels(7)[:40]), 32)
    with pytest.raises(WrongSizeError, match="smaller"):
        read_film(png(pixels(7)[:16, :16]), 32)


PAGE = Image.new("L", (8, 8))


def packed(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 15, 16])
def test_white_is_that_of_the_bits_in_use(kind, bits):
    levels = np.linspace(0, 2**bits - 1, 64 * 48).round().astype(np.uint16).reshape(48, 64)
    film = decode_film(packed(Image.fromarray(levels), kind))
    assert film.dtype == np.uint8
    np.testing.assert_array_equal(film, np.rint(levels / (2**bits - 1) * 255))


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *((kind, mode) for kind in ("PNG", "TIFF") for mode in ("L", "LA", "RGB", "RGBA")),
        *((kind, mode) for kind in ("JPEG", "TIFF") for mode in ("RGB", "CMYK")),
    ],
)
def test_gray_of_every_mode_and_shape(kind, mode):
    gray = np.add.outer(np.arange(40), np.arange(72)).astype(np.uint8)
    image = Image.fromarray(gray).convert("RGB").convert(mode)
    film = decode_film(packed(image, kind, quality=95) if kind == "JPEG" else packed(image, kind))
    np.testing.assert_allclose(film, gray, atol=2 if kind == "JPEG" or mode == "CMYK" else 0)


def deep_color_png(samples):
    """Write uint16 `[H, W, 2, 3 or 4]` as gray and alpha, RGB or RGBA."""

    def chunk(kind, body):
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    height, width, bands = samples.shape
    head = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[bands], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    data = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("bands", [2, 3, 4])
def test_deep_colour_of_a_gray_film_is_the_film(bands, bits):
    levels = np.linspace(0, 2**bits - 1, 64 * 48).round().astype(np.uint16).reshape(48, 64)
    samples = np.repeat(levels[..., None], bands, -1)
    if bands != 3:
        samples[..., -1] = np.arange(64) * 1000  # alpha
    film = decode_film(deep_color_png(samples))
    np.testing.assert_array_equal(film, np.rint(levels / (2**bits - 1) * 255))


def test_deep_colour_is_weighted_as_eight_bits_are():
    colours = np.random.default_rng(12).integers(0, 256, (300, 9, 3)).astype(np.uint8)
    colours[0, 0] = 255
    film = decode_film(deep_color_png(colours * np.uint16(257)))
    expected = np.asarray(Image.fromarray(colours).convert("L"), int)
    np.testing.assert_allclose(film, expected, atol=1)


def test_deep_colour_without_its_last_pixels():
    whole = deep_color_png(np.zeros((8, 8, 3), np.uint16))
    head = struct.pack(">IIBBBBB", 8, 99, 16, 2, 0, 0, 0)
    checked = head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    with pytest.raises(UnreadableImageError):
        decode_film(whole[:16] + checked + whole[33:])


def tiff(samples, photometric, sample_format):
    """Write uint16 or int16 `[H, W, C]` as an uncompressed TIFF."""
    height, width, bands = samples.shape
    tags = [
        (256, 3, 1, width),
        (257, 3, 1, height),
        (258, 3, bands, 16 if bands == 1 else 200),
        (259, 3, 1, 1),
        (262, 3, 1, photometric),
        (273, 4, 1, 300),
        (277, 3, 1, bands),
        (278, 3, 1, height),
        (279, 4, 1, samples.nbytes),
        (339, 3, bands, sample_format if bands == 1 else 220),
    ]
    data = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    data += b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    data = data.ljust(200, b"\0") + struct.pack(f"<{bands}H", *[16] * bands)
    data = data.ljust(220, b"\0") + struct.pack(f"<{bands}H", *[sample_format] * bands)
    return data.ljust(300, b"\0") + samples.tobytes()


def test_a_tiff_of_signed_samples():
    levels = np.linspace(0, 4095, 48).round().astype(np.int16).reshape(6, 8, 1)
    expected = np.rint(levels[..., 0] / 4095 * 255)
    np.testing.assert_array_equal(decode_film(tiff(levels, 1, 2)), expected)
    with pytest.raises(UnreadableImageError, match="negative samples"):
        decode_film(tiff(levels - 9, 1, 2))


def test_a_tiff_of_signed_bytes_is_refused():
    data = bytearray(tiff(np.zeros((6, 8, 1), np.int16), 1, 2))
    place = data.index(struct.pack("<HHI", 258, 3, 1))
    data[place + 8] = 8  # bits a sample; -1 would become 255
    with pytest.raises(UnreadableImageError, match="signed samples of 8 bits"):
        decode_film(bytes(data))


@pytest.mark.parametrize(
    ("bands", "photometric", "sample_format", "reason"),
    [
        (1, 1, 3, "float samples of 16 bits"),
        (3, 2, 3, "float samples of 16 bits"),
        (1, 0, 2, "signed samples of 16 bits"),
        (1, 1, 4, "samples of format 4"),
    ],
)
def test_a_tiff_that_pillow_cannot_open_is_named(bands, photometric, sample_format, reason):
    with pytest.raises(UnreadableImageError, match=f"^{reason}; save it"):
        decode_film(tiff(np.zeros((6, 8, bands), np.int16), photometric, sample_format))


@pytest.mark.parametrize("compression", ["jpeg", "tiff_adobe_deflate"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_tiff_with_zeroed_bytes_is_refused(compression, mode):
    whole = packed(shaded().convert(mode), "TIFF", compression=compression)
    assert decode_film(whole).shape == (256, 256)
    tags = Image.open(io.BytesIO(whole)).tag_v2
    for offset, length in zip(tags[273], tags[279], strict=True):
        damaged = bytearray(whole)
        place, size = offset + length // 3, length // 3
        damaged[place : place + size] = bytes(size)
        with pytest.raises(UnreadableImageError, match="damaged"):
            decode_film(bytes(damaged))


def test_a_tiff_of_deep_colour_is_refused():
    with pytest.raises(UnreadableImageError, match="colour samples of 16 bits"):
        decode_film(tiff(np.full((6, 8, 3), 4095, np.uint16), 2, 1))


@pytest.mark.parametrize("bits", [8, 16])
def test_a_tiff_whose_zero_is_white(bits):
    levels = pixels(9).astype(f"uint{bits}") * (257 if bits == 16 else 1)
    data = packed(Image.fromarray(levels), "TIFF", tiffinfo={262: 0})
    stored = np.asarray(Image.open(io.BytesIO(data))) >> (bits - 8)
    # Pillow inverts 8 bits when it writes and when it reads, and 16 bits never.
    np.testing.assert_array_equal(decode_film(data), stored if bits == 8 else 255 - stored)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_a_photograph_is_turned_as_viewers_do(kind):
    gray = np.zeros((16, 32), np.uint8)
    gray[:, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    film = decode_film(packed(Image.fromarray(gray), kind, exif=exif))
    assert film.shape == (32, 16)
    assert film[:14].min() > 240 > 15 > film[18:].max()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: b"", "empty file"),
        (lambda: b"no film at all" * 20, "not a PNG, JPEG, TIFF or DICOM file"),
        (lambda: b"\xff\xd8\xff" + bytes(200), "damaged: no JPEG"),
        (lambda: b"II*\0\x08\0\0\0" + bytes(200), "damaged"),
        (lambda: b"II*\0\xff\xff\0\0" + bytes(200), "^truncated$"),
        (
            lambda: packed(
                Image.new("L", (8, 8)),
                "TIFF",
                save_all=True,
                append_images=[Image.new("L", (8, 8))],
            ),
            "several pages",
        ),
        (lambda: packed(Image.new("F", (8, 8)), "TIFF"), "float samples of 32 bits"),
        (lambda: packed(Image.fromarray(pixels(1)), "JPEG")[:-900], "^truncated$"),
        (lambda: packed(Image.fromarray(pixels(1)), "TIFF")[:-2000], "^truncated$"),
    ],
)
def test_what_is_refused(make, reason):
    with pytest.raises(UnreadableImageError, match=reason):
        decode_film(make())


def test_a_header_of_50000_x_50000_pixels():
    jpeg = bytearray(packed(Image.new("L", (16, 16)), "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 50_000, 50_000)
    tiff = bytearray(packed(Image.new("L", (16, 16)), "TIFF"))
    for tag in (256, 257):
        place = tiff.index(struct.pack("<HHI", tag, 4, 1))
        tiff[place + 8 : place + 12] = struct.pack("<I", 50_000)
    for data in (jpeg, tiff):
        with pytest.raises(UnreadableImageError, match="claims"):
            decode_film(bytes(data))


@settings(max_examples=25, deadline=None)
@given(width=st.integers(8, 80), height=st.integers(8, 80), size=st.integers(8, 64))
def test_resizing_is_pillows_of_the_whole_film(width, height, size):
    film = pixels(10, 80)[:height, :width]
    expected = Image.fromarray(film).resize((size, size), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(resize_film(film, size), expected)


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    with open(tmp_path / "large.png", "wb") as file:
        file.truncate(MAX_BYTES + 1)
    for name, reason in {
        "pipe.png": "not a file",
        ".": "Is a directory",
        "loop.png": "[Ss]ymbolic link",
        "missing.png": "No such file",
        "large.png": "more than any radiograph",
    }.items():
        with pytest.raises(UnreadableImageError, match=reason):
            load_film(tmp_path / name)
    (tmp_path / "film.dcm").write_bytes(png(pixels(11)))  # the content counts, not the name
    np.testing.assert_array_equal(load_film(tmp_path / "film.dcm"), pixels(11))


def shaded():
    """A picture with shapes and noise, 256 x 256."""
    y, x = np.mgrid[-1:1:256j, -1:1:256j]
    noise = np.random.default_rng(3).normal(0, 6, (256, 256))
    gray = np.clip(128 + 90 * np.cos(3 * x) * np.cos(2 * y) + noise, 0, 255).astype(np.uint8)
    return Image.fromarray(gray)


def jpeg(progressive, mode="L", **options):
    """A smooth film with noise, of 256 x 256 pixels."""
    image = shaded().convert("RGB").convert(mode)
    return packed(image, "JPEG", progressive=progressive, **options)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_with_zeroed_bytes_is_refused(progressive):
    """All that libjpeg warns of, which is nearly all."""
    whole, reasons = jpeg(progressive), []
    for start in range(2000, len(whole) - 600, 400):
        try:
            decode_film(whole[:start] + bytes(512) + whole[start + 512 :])
        except UnreadableImageError as error:
            reasons.append(str(error))
        else:
            reasons.append("")
    assert reasons.count("") <= len(reasons) // 6
    assert set(reasons) <= {"", "damaged: its coded data do not fit its size"}


def test_whole_jpegs_of_any_kind_are_read():
    for progressive in (False, True):
        for mode, sampling in (("L", 0), ("RGB", 0), ("RGB", 1), ("RGB", 2), ("CMYK", 0)):
            for options in ({}, {"optimize": True}, {"restart_marker_blocks": 3}):
                data = jpeg(progressive, mode, subsampling=sampling, quality=30, **options)
                expected = np.asarray(Image.open(io.BytesIO(data)).convert("L"))
                # Fill bytes before a marker, and anything after the end.
                for same in (data, data[:-2] + b"\xff\xff\xd9", data + bytes(99)):
                    np.testing.assert_array_equal(decode_film(same), expected)
    written = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 2]
    assert decode_film(cv2.imencode(".jpg", pixels(1), written)[1].tobytes()).shape == (64, 64)


def reframed(marker, bits=8):
    return jpeg(False).replace(b"\xff\xc0\0\x0b\x08", bytes([0xFF, marker, 0, 11, bits]))


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (reframed(0xC3), "a lossless JPEG file"),
        (reframed(0xC9), "a JPEG file of arithmetic coding"),
        (reframed(0xC5), "a hierarchical JPEG file"),
        (reframed(0xF7), "a JPEG-LS file"),
        (reframed(0xC1, 12), "a JPEG file of 12 bits"),
        (b"II+\0\x08\0\0\0", "a BigTIFF file"),
        (b"MM\0+\0\x08\0\0", "a BigTIFF file"),
        (packed(Image.new("L", (8, 8)), "JPEG2000"), "a JPEG 2000 or HTJ2K file"),
        (packed(Image.new("L", (8, 8)), "JPEG2000", no_jp2=True), "a JPEG 2000 or HTJ2K file"),
        (packed(Image.new("L", (8, 8)), "GIF"), "a GIF file"),
        (packed(Image.new("L", (8, 8)), "BMP"), "a BMP file"),
        (packed(Image.new("L", (8, 8)), "WEBP"), "a RIFF file, such as WebP"),
        (packed(Image.new("L", (8, 8)), "PDF"), "a PDF file"),
        (struct.pack("<i", 348) + bytes(344), "a NIfTI file"),
        (b"\x1f\x8b\x08\0", "a gzip file"),
        (b"version https://git-lfs.github.com/spec/v1", "a pointer of Git LFS"),
        (b"<!DOCTYPE html><html>", "a web page"),
    ],
)
def test_kinds_that_are_not_read_are_named(data, kind):
    with pytest.raises(UnreadableImageError, match=f"^{kind}"):
        decode_film(data)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "jpeg"])
def test_a_tiff_cut_anywhere_is_truncated(compression):
    """Pillow writes the directory in front without compression, and libtiff behind the pixels."""
    whole = packed(Image.fromarray(pixels(1)), "TIFF", compression=compression)
    for share in (0.02, 0.3, 0.6, 0.95):
        with pytest.raises(UnreadableImageError, match=r"^truncated$"):
            decode_film(whole[: int(share * len(whole))])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_a_process_in_which_pillow_hides_damage_reads_nothing(kind, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(UnreadableImageError, match="LOAD_TRUNCATED_IMAGES is set; unset it"):
        decode_film(packed(PAGE, kind))


def films_of_all_kinds(folder):
    """Write films of 48 x 48 pixels, all different; return `{path: gray levels}`."""
    films = {}
    for number in range(24):
        gray = pixels(100 + number, 48)
        image = Image.fromarray(gray)
        deep = Image.fromarray(gray.astype(np.uint16) * 257)
        kinds = {
            "png": (image, "PNG", {}),
            "deep.png": (deep, "PNG", {}),
            "alpha.png": (image.convert("RGBA"), "PNG", {}),
            "tif": (image, "TIFF", {"compression": "tiff_lzw"}),
            "deep.tif": (deep, "TIFF", {}),
            "jpg": (image, "JPEG", {"quality": 95}),
        }
        for name, (picture, kind, options) in kinds.items():
            path = folder / f"{number}.{name}"
            path.write_bytes(packed(picture, kind, **options))
            jpeg = np.asarray(Image.open(path)) if kind == "JPEG" else gray
            films[path] = np.array(jpeg)
        if dicom_files is not None:
            path = folder / f"{number}.dcm"
            shown = {"WindowCenter": 128, "WindowWidth": 256}
            path.write_bytes(dicom_files.encoded(dicom_files.radiograph(gray, **shown)))
            films[path] = gray
    return films


@pytest.mark.parametrize("reads", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_threads_read_their_own_films(tmp_path, reads):
    films = films_of_all_kinds(tmp_path)
    chosen = random.Random(0).choices(list(films), k=reads)
    with ThreadPoolExecutor(8) as threads:
        for path, film in zip(chosen, threads.map(load_film, chosen), strict=True):
            np.testing.assert_array_equal(film, films[path], err_msg=path.name)


@pytest.mark.filterwarnings("ignore:.*fork")
def test_a_forked_process_reads_films_or_says_why_not(tmp_path):
    """Also after its parent has read films of all kinds."""
    films = {path.name.partition(".")[2]: path for path in films_of_all_kinds(tmp_path)}
    for path in films.values():
        load_film(path)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(60)  # rather than hang
        for name, path in films.items():
            try:
                said = f"{load_film(path).shape}"
            except UnreadableImageError as error:
                said = str(error)
            os.write(writing, f"{name} {said}\n".encode())
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    os.close(writing)
    with open(reading) as file:
        said = dict(line.rstrip().split(" ", 1) for line in file)
    assert "this process was forked; start it with multiprocessing's spawn" in said.pop("jpg")
    assert len(said) >= 5 and set(said.values()) == {"(48, 48)"}


def test_a_process_forked_before_the_first_jpeg_reads_it(tmp_path):
    """Servers import a program, then fork."""
    path = tmp_path / "a.jpg"
    path.write_bytes(packed(PAGE, "JPEG"))
    program = (
        "import os, signal, sys; from agcnn_jax.data.films import load_film; child = os.fork()\n"
        "if not child: signal.alarm(60); os._exit(load_film(sys.argv[1]).shape != (8, 8))\n"
        "sys.exit(os.waitpid(child, 0)[1] != 0)"
    )
    subprocess.run([sys.executable, "-c", program, path], check=True, timeout=60)
