"""Films as Python holds them: paths, Pillow images and arrays; their names and gray levels."""

from __future__ import annotations

import io
import os
import unicodedata
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFile, ImageOps

from agcnn_jax.data.films import decode_film, gray_of_image, load_film
from agcnn_jax.data.pixels import MAX_BYTES, UnreadableImageError, check_pixels, deep_to_gray
from agcnn_jax.runtime.errors import UserError

Film = str | os.PathLike[str] | Image.Image | np.ndarray

CHANNELS = (1, 3, 4)
"""Channels that an array may have: gray, colour, or colour with alpha."""

NO_PIXELS = np.zeros((0, 0), np.uint8)
"""The film that is not shown."""

_FORMATS = ("PNG", "JPEG", "MPO", "TIFF")
"""The formats of Pillow that `decode_film` reads."""

_NARROWEST = 16
"""Pixels. A last axis that is shorter holds channels, not the columns of a film."""


class DecodedFilm(NamedTuple):
    """A film that was read.

    Attributes:
        stored: the whole film as the model stores it, uint8 `[S, S]`.
        width: of the film in pixels.
        height: of the film in pixels.
        shown: the film for people, uint8 `[h, w]`, or `NO_PIXELS`.
    """

    stored: np.ndarray
    width: int
    height: int
    shown: np.ndarray


class Unread(NamedTuple):
    """A film that cannot be fetched from a bucket, and why."""

    reason: str


Fetched = str | bytes | Unread
"""The path of a film on the disk, or the content of one in a bucket."""


def are_many(images: object) -> bool:
    """Tell several films from one: a list, a tuple, or an array with an axis more than a film has.

    An array of three axes is a film if the last has fewer than 16 entries, which are its channels;
    otherwise it is `[B, H, W]`. `[B, H, W, channels]` are several films too.
    """
    shape: tuple[int, ...] = getattr(images, "shape", ())
    several = len(shape) == 4 or (len(shape) == 3 and shape[2] >= _NARROWEST)
    return several or isinstance(images, list | tuple)


def as_film(image: Film) -> tuple[str, np.ndarray]:
    """Return a film's name, "" if it has none, and its gray levels, uint8 `[H, W]`.

    Args:
        image: a PNG, JPEG, TIFF or DICOM file; a Pillow image; or an array `[H, W]`, `[H, W, 1]`,
            `[H, W, 3]` or `[H, W, 4]`, larger values brighter: uint8, or a gray one of uint16,
            which is scaled as the samples of a file are, see `deep_to_gray`.

    Raises:
        UserError: for a file or an image that cannot be read. Arrays of floats and of signed
            integers are refused, since they do not say which value is white.
    """
    if isinstance(image, str | os.PathLike):
        name = os.fspath(image)
        try:
            return os.path.basename(name), load_film(name)
        except UnreadableImageError as error:
            raise UserError(
                f"{printable(name)}: {error}; give a PNG, JPEG, TIFF or DICOM file"
            ) from None
        except ValueError:  # of the system, for a null character
            raise UserError(f"{name!r} is no path; give a PNG, JPEG, TIFF or DICOM file") from None
    try:
        if isinstance(image, Image.Image):
            return "", _film_of_image(image)
        return "", _gray(np.asarray(image))
    except UnreadableImageError as error:
        raise UserError(f"an image: {error}; give another") from None
    except UserError:
        raise
    except Exception as error:  # of Pillow, which decodes only now; or of another kind of array
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"an image cannot be decoded ({reason}); give another") from None


def _film_of_image(image: Image.Image) -> np.ndarray:
    """Read a Pillow image: the file that it was opened from, if it has not been changed since.

    Of a file that only Pillow reads, such as BMP, and of one that is lost, its pixels are read.
    """
    if image.format in _FORMATS and (data := _file_of_image(image)) is not None:
        return decode_film(data)
    if _has_several_pages(image):
        raise UnreadableImageError("holds several pages; give a copy() of one")
    if hasattr(image, "tag_v2"):
        return gray_of_image(image)
    deep = image.mode in ("I", "F") or image.mode.startswith("I;16")
    # As files are read: photographs are turned as the camera was held, PNGs are not.
    turned = image if image.format == "PNG" else ImageOps.exif_transpose(image)
    return _gray(np.asarray(turned if deep else turned.convert("L")))


def _has_several_pages(image: Image.Image) -> bool:
    """Tell whether a Pillow image has pages or frames, other than a photograph's previews (MPO)."""
    try:
        return image.format != "MPO" and getattr(image, "n_frames", 1) > 1
    except Exception:  # of a file that is closed: a TIFF of one page knows that it is
        return image.format == "TIFF"


def _file_of_image(image: Image.Image) -> bytes | None:
    """Return the file that a Pillow image was opened from; None if it is lost or was changed."""
    if not isinstance(image, ImageFile.ImageFile):
        return None
    file, name = image.fp, getattr(image, "filename", "")
    if file is not None and not file.closed:
        place = file.tell()
        file.seek(0)
        data = file.read(MAX_BYTES + 1)
        file.seek(place)
        again: str | io.BytesIO = io.BytesIO(data)
    elif name and os.path.isfile(name):
        with open(name, "rb") as opened:
            data = opened.read(MAX_BYTES + 1)
        again = name  # Pillow 13 turns some TIFFs wrongly if it has a path, so not from `data`
    else:
        return None
    try:
        fresh = Image.open(again)
        fresh.seek(image.tell())
        same = (fresh.mode, fresh.size) == (image.mode, image.size)
        if not image.tile:  # decoded, so that its pixels may have been changed
            fresh.load()
            same = (fresh.mode, fresh.size) == (image.mode, image.size)
            same = same and fresh.tobytes() == image.tobytes()
    except Exception:  # another file, perhaps a damaged one, has this name by now
        same = bool(image.tile)
    return data if same else None


def _gray(levels: np.ndarray) -> np.ndarray:
    if levels.ndim == 3 and levels.shape[2] not in CHANNELS and levels.shape[2] < _NARROWEST:
        raise UserError(
            f"an image has shape {levels.shape}, and {levels.shape[2]} channels mean nothing here; "
            f"give gray (H, W), colour (H, W, 3), or colour with alpha (H, W, 4)"
        )
    levels = levels.astype(levels.dtype.newbyteorder("="), copy=False)
    if levels.ndim == 3 and levels.shape[2] == 1:
        levels = levels[..., 0]
    colour = levels.ndim == 3 and levels.shape[2] in (3, 4) and levels.dtype == np.uint8
    if not colour and not (levels.ndim == 2 and levels.dtype in (np.uint8, np.uint16)):
        raise UserError(
            f"an image is {levels.dtype} of shape {levels.shape}; give uint8 or uint16 of shape "
            f"(H, W), uint8 of shape (H, W, 3), or several of them: a list, or an array (B, H, W)"
        )
    height, width = levels.shape[:2]
    check_pixels(width, height)
    if levels.dtype == np.uint16:
        return deep_to_gray(levels)
    return np.asarray(Image.fromarray(levels).convert("L"))


def printable(path: str) -> str:
    r"""Return a path as one line that UTF-8 can write, different for every path.

    Backslashes, control characters, line separators and bytes that are no UTF-8 become Python's
    escapes: `\\`, `\n`, `\u2028`, `\udcff`.
    `text.encode("latin-1", "backslashreplace").decode("unicode_escape")` is the path again.
    """
    return "".join(
        character.encode("unicode_escape").decode()
        if character == "\\" or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
        else character
        for character in path
    )
