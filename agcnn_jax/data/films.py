"""Reading one film: a PNG, JPEG, TIFF or DICOM file becomes a gray image of any size."""

from __future__ import annotations

import io
import os
import stat

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from agcnn_jax.data import dicom, png
from agcnn_jax.data.pixels import MAX_BYTES, UnreadableImageError, check_pixels, deep_to_gray
from agcnn_jax.runtime.paths import expand

JPEG_SIGNATURE = b"\xff\xd8\xff"
TIFF_SIGNATURES = (b"II*\0", b"MM\0*")
_WHITE_IS_ZERO = 0  # a TIFF's photometric interpretation
_PHOTOMETRIC = 262  # its tag
_BITS_PER_SAMPLE = 258
_SIGNED = 2  # a TIFF's sample format
_SAMPLE_FORMAT = 339  # its tag


class WrongSizeError(Exception):
    """The image is not square, or smaller than the requested size."""


def load_film(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a film from a file; see `decode_film`.

    Raises:
        UnreadableImageError: also if it is no regular file, or cannot be opened.
    """
    path = expand(path)
    try:
        status = os.stat(path)
        # A named pipe would block, a device never end. Of a folder, opening it says what is wrong.
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise UnreadableImageError("not a file")
        if status.st_size > MAX_BYTES:
            raise UnreadableImageError(f"{status.st_size} bytes, more than any radiograph")
        with open(path, "rb") as file:
            return decode_film(file.read(MAX_BYTES + 1))
    except OSError as error:
        raise UnreadableImageError(error.strerror or "cannot be read") from None


def decode_film(data: bytes) -> np.ndarray:
    """Decode a film and convert it to gray. Its content says what it is, not its name.

    Args:
        data: content of the file: PNG, JPEG or TIFF with 8 to 16 bits a sample, gray or colour
            (a TIFF in colour: 8); or DICOM, see `agcnn_jax.data.dicom`.

    Returns:
        uint8 `[H, W]`, as a viewer shows it: larger is brighter.

    Raises:
        UnreadableImageError: none of these, truncated, damaged, or larger than `MAX_PIXELS`.
    """
    if not data:
        raise UnreadableImageError("empty file")
    if len(data) > MAX_BYTES:
        raise UnreadableImageError(f"{len(data)} bytes, more than any radiograph")
    if data.startswith(png.SIGNATURE):
        return png.decode_png(data)
    # Some DICOM files begin like a TIFF, for programs that know nothing else.
    if dicom.is_dicom(data):
        return dicom.decode_dicom(data)
    if data.startswith(JPEG_SIGNATURE):
        return _decode_picture(data, "JPEG")
    if data.startswith(TIFF_SIGNATURES):
        return _decode_picture(data, "TIFF")
    raise UnreadableImageError("not a PNG, JPEG, TIFF or DICOM file")


def resize_film(film: np.ndarray, size: int) -> np.ndarray:
    """Resize a whole film uint8 `[H, W]` to a square uint8 `[size, size]`.

    Both sides are scaled by themselves, as NIH did to make 1024 x 1024 pixels of films of any
    shape. Pillow's antialiased bilinear filter does it, as torchvision's `Resize` does for PIL
    images, so that inputs agree with those of PyTorch ports. A film that already has this size is
    not resampled.
    """
    if film.shape == (size, size):
        return film
    return np.asarray(Image.fromarray(film).resize((size, size), Image.Resampling.BILINEAR))


def read_film(data: bytes, size: int) -> tuple[np.ndarray, int]:
    """Decode a square PNG, such as NIH's, convert it to gray and resize it.

    Args:
        data: content of the PNG file; see `agcnn_jax.data.png.decode_png`.
        size: side of the result in pixels.

    Returns:
        The image, uint8 `[size, size]`, and the side of the original in pixels.

    Raises:
        UnreadableImageError: not a PNG, truncated, damaged, or larger than `MAX_PIXELS`.
        WrongSizeError: not square, or smaller than `size`.
    """
    if data and not data.startswith(png.SIGNATURE):
        raise UnreadableImageError("not a PNG file")
    film = decode_film(data)
    height, width = film.shape
    if width != height:
        raise WrongSizeError(f"{width} x {height}, not square")
    if width < size:
        raise WrongSizeError(f"{width} x {height}, smaller than {size} x {size}")
    return resize_film(film, size), width


def _decode_picture(data: bytes, kind: str) -> np.ndarray:
    """Decode with Pillow what it alone can tell to be whole."""
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=[kind])
        check_pixels(*image.size)
        if kind == "TIFF" and _has_second_page(image):
            raise UnreadableImageError("holds several pages; save each film as a file of its own")
        image.load()
        tags = getattr(image, "tag_v2", {})
        # Phones store a photograph as the sensor lay, and say how to turn it.
        image = ImageOps.exif_transpose(image)
    except UnreadableImageError:
        raise
    except Image.DecompressionBombError:
        raise UnreadableImageError("claims more pixels than any radiograph") from None
    except UnidentifiedImageError:
        raise UnreadableImageError(f"damaged: no {kind} that can be decoded") from None
    except Exception as error:  # decoders raise anything from OSError to SyntaxError for bad data
        raise UnreadableImageError(f"damaged: {' '.join(str(error).split())[:200]}") from None
    if image.mode.startswith("I;16"):
        return deep_to_gray(np.asarray(image), tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO)
    bits = max(tags.get(_BITS_PER_SAMPLE, ()), default=8)
    if image.mode == "I" and bits == 16 and tags.get(_SAMPLE_FORMAT, (1,))[0] == _SIGNED:
        levels = np.asarray(image)
        if levels.min() < 0:
            raise UnreadableImageError("negative samples; save it with unsigned ones")
        return deep_to_gray(levels)  # Pillow decodes none whose zero is white
    if image.mode in ("I", "F"):
        raise UnreadableImageError("samples of 32 bits; save it with 8 or 16")
    if bits > 8:  # of which Pillow keeps the high byte: 12 bits in 16 would be nearly black
        raise UnreadableImageError(f"colour samples of {bits} bits; save it with 8, or as PNG")
    return np.asarray(image.convert("L"))


def _has_second_page(image: Image.Image) -> bool:
    """Look one page ahead: counting them all would walk through as many as a file claims."""
    try:
        image.seek(1)
    except EOFError:
        return False
    return True
