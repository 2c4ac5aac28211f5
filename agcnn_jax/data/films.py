"""Reading one film: a PNG, JPEG, TIFF or DICOM file becomes a gray image of any size."""

from __future__ import annotations

import io
import os
import stat

import numpy as np
from PIL import Image, ImageFile, ImageOps

from agcnn_jax.data import jpeg, png, tiff
from agcnn_jax.data.dicom import decode_dicom
from agcnn_jax.data.dicom_header import is_dicom
from agcnn_jax.data.pixels import MAX_BYTES, UnreadableImageError, check_pixels, deep_to_gray
from agcnn_jax.runtime.paths import expand

_OTHER_KINDS = {
    "a BigTIFF file": (b"II+\0", b"MM\0+"),
    "a JPEG 2000 or HTJ2K file": (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
    "a JPEG XL file": (b"\0\0\0\x0cJXL ", b"\xff\x0a"),
    "a JPEG XR file": (b"II\xbc",),
    "a GIF file": (b"GIF8",),
    "a BMP file": (b"BM",),
    "a RIFF file, such as WebP": (b"RIFF",),
    "a HEIC or AVIF file": (b"\0\0\0\x18ftyp", b"\0\0\0\x1cftyp", b"\0\0\0\x20ftyp"),
    "a PDF file": (b"%PDF",),
    "a NIfTI file": (b"\x5c\x01\0\0", b"\0\0\x01\x5c"),  # the length of its header, 348
    "an NRRD file": (b"NRRD",),
    "a NumPy file": (b"\x93NUMPY",),
    "an HDF5 file": (b"\x89HDF",),
    "a gzip file": (b"\x1f\x8b",),
    "a zip archive": (b"PK\x03\x04",),
    "a pointer of Git LFS, not the file": (b"version https://git-lfs",),
    "a web page, perhaps of a failed download": (b"<!DOCTYPE", b"<!doctype", b"<html", b"<HTML"),
}
"""The first bytes of other kinds of files, which people take for films."""


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
    if ImageFile.LOAD_TRUNCATED_IMAGES and not is_dicom(data):
        # A setting of the whole process, with which Pillow makes missing pixels black.
        raise UnreadableImageError(
            "not readable for sure while PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set; unset it"
        )
    if data.startswith(png.SIGNATURE):
        return png.decode_png(data)
    # Some DICOM files begin like a TIFF, for programs that know nothing else.
    if is_dicom(data):
        return decode_dicom(data)
    if data.startswith(jpeg.SIGNATURE):
        jpeg.check_jpeg(data)
        return _decode_picture(data, "JPEG")
    if data.startswith(tiff.SIGNATURES):
        return _decode_picture(data, "TIFF")
    for kind, signatures in _OTHER_KINDS.items():
        if data.startswith(signatures):
            raise UnreadableImageError(f"{kind}, not a PNG, JPEG, TIFF or DICOM file")
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
        film = gray_of_image(image)
        if kind == "TIFF":
            tiff.check_coded(data)
        return film
    except UnreadableImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnreadableImageError("claims more pixels than any radiograph") from None
    except Exception as error:  # decoders raise anything from OSError to SyntaxError for bad data
        if kind == "TIFF":
            tiff.check_decodable(data)
        reason = " ".join(str(error).split())[:200]
        if "cannot identify" in reason:
            reason = f"no {kind} that can be decoded"
        raise UnreadableImageError(
            "truncated" if "truncated" in reason.lower() else f"damaged: {reason}"
        ) from None


def gray_of_image(image: Image.Image) -> np.ndarray:
    """Convert a Pillow image to gray, as it lies in its file; see `decode_film`.

    Args:
        image: decoded or not. If it has the tags of a TIFF, they say what its samples mean.

    Returns:
        uint8 `[H, W]`.

    Raises:
        UnreadableImageError: the samples are floats, negative, or of more than 16 bits; or colour
            of more than 8.
        Exception: Pillow cannot decode it.
    """
    tags = getattr(image, "tag_v2", {})
    samples = tiff.check_samples(tags)
    image.load()
    # Phones store a photograph as the sensor lay, and say how to turn it.
    turned = ImageOps.exif_transpose(image)
    if turned.mode.startswith("I;16"):
        return deep_to_gray(np.asarray(turned), samples.zero_is_white)
    if turned.mode == "I" and samples.bits == 16 and samples.signed:
        levels = np.asarray(turned)
        if levels.min() < 0:
            raise UnreadableImageError("negative samples; save it with unsigned ones")
        return deep_to_gray(levels)
    if turned.mode in ("I", "F"):
        raise UnreadableImageError("samples of 32 bits; save it with 8 or 16")
    if samples.bits > 8:  # of which Pillow keeps the high byte: 12 bits in 16 would be nearly black
        raise UnreadableImageError(
            f"colour samples of {samples.bits} bits; save it with 8, or as PNG"
        )
    return np.asarray(turned.convert("L"))


def _has_second_page(image: Image.Image) -> bool:
    """Look one page ahead: counting them all would walk through as many as a file claims."""
    try:
        image.seek(1)
    except EOFError:
        return False
    return True
