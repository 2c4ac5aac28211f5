"""Reading one film: gray levels, sizes, damage."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from agcnn_jax.data.films import UnreadableImageError, WrongSizeError, read_film
from tests.data_prep.nih_files import (
    pixels,
    png,
)


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

    for side in (100_000, 64):
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
        data = chunk(b"IDAT", zlib.compress(b"\0" * 650)) + chunk(b"IEND", b"")
        with pytest.raises(UnreadableImageError):
            read_film(b"\x89PNG\r\n\x1a\n" + head + data, 32)


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
