"""Prediction of films as Python holds them: paths, Pillow images and arrays."""

from __future__ import annotations

import os
from collections.abc import Sequence

import jax
import numpy as np
from PIL import Image, ImageOps

from agcnn_jax.data.films import load_film, resize_film
from agcnn_jax.data.pixels import UnreadableImageError, check_pixels, deep_to_gray
from agcnn_jax.inference.model import Model, film_boxes, film_distances
from agcnn_jax.inference.result import Result, answers_of
from agcnn_jax.runtime.errors import UserError

Film = str | os.PathLike[str] | Image.Image | np.ndarray

CHANNELS = (1, 3, 4)
"""Channels that an array may have: gray, colour, or colour with alpha."""


def predict_films(model: Model, images: Sequence[Film]) -> list[Result]:
    """Predict films in one batch; see `as_film` for what a film is.

    Raises:
        UserError: for a film that cannot be read.
    """
    named = [as_film(image) for image in images]
    films = [film for _, film in named]
    # A program for each power of two, not for each number of films.
    shape = (1 << (len(films) - 1).bit_length(), model.image_size, model.image_size)
    stored = np.zeros(shape, np.uint8)
    for row, film in zip(stored, films, strict=False):
        row[...] = resize_film(film, model.image_size)
    outputs = jax.device_get(model.predict_batch(stored, heat_maps=True))
    boxes = film_boxes(model, outputs, np.array([film.shape[::-1] for film in films]))
    distances = film_distances(model, outputs, len(films))
    return [
        Result(
            name=name,
            findings=model.findings,
            branches=answers_of(
                {branch: outputs[branch][i] for branch in model.branches},
                model.labels,
                model.calibration,
            ),
            film=film,
            box=None if boxes is None else tuple(boxes[i].tolist()),
            input_heat_map=outputs["heat_maps"][i],
            stored_size=model.image_size,
            distance=None if distances is None else float(distances[i]),
        )
        for i, (name, film) in enumerate(named)
    ]


def are_many(images: object) -> bool:
    """Tell several films from one: a list, a tuple, or an array with an axis more than a film has.

    An array of three axes is a film if the last has 1, 3 or 4 entries, which are its channels;
    otherwise it is `[B, H, W]`. `[B, H, W, 1|3|4]` are several films too.
    """
    shape: tuple[int, ...] = getattr(images, "shape", ())
    several = len(shape) == 4 or (len(shape) == 3 and shape[2] not in CHANNELS)
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
            raise UserError(f"{name}: {error}; give a PNG, JPEG, TIFF or DICOM file") from None
        except ValueError:  # of the system, for a null character
            raise UserError(f"{name!r} is no path; give a PNG, JPEG, TIFF or DICOM file") from None
    if isinstance(image, Image.Image):
        deep = image.mode in ("I", "F") or image.mode.startswith("I;16")
        try:
            # As files are read: photographs are turned as the camera was held, PNGs are not.
            turned = image if image.format == "PNG" else ImageOps.exif_transpose(image)
            image = np.asarray(turned if deep else turned.convert("L"))
        except (OSError, SyntaxError, ValueError) as error:  # Pillow decodes only now
            raise UserError(f"an image cannot be decoded ({error}); give another") from None
    try:
        levels = np.asarray(image)
    except (RuntimeError, TypeError, ValueError) as error:  # as of a tensor that requires grad
        raise UserError(f"an image is no array ({error}); give a NumPy array") from None
    try:
        return "", _gray(levels)
    except UnreadableImageError as error:
        raise UserError(f"an image {error}; give another") from None


def _gray(levels: np.ndarray) -> np.ndarray:
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
