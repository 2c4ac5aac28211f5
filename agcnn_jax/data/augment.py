"""Augmentation inside jit: random crops and flips for training, the centre crop otherwise.

In Section IV-B stored images are 256x256 and the input is 224x224. Other sizes keep that ratio.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from agcnn_jax.attention.resample import PRECISION, crop_and_resize
from agcnn_jax.data import CROPS
from agcnn_jax.data.coordinates import centre_box

_ATTEMPTS = 10


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How a training image is cropped and flipped.

    Attributes:
        crop: `random_resized` (random area and aspect ratio, as in torchvision's
            RandomResizedCrop), `random` (a random window as large as the centre crop) or `centre`.
        scale: range of the crop's area as a fraction of the image's area, for `random_resized`.
        ratio: range of the crop's width over height, for `random_resized`.
        flip: mirror half of the images left to right, at random.
    """

    crop: str = "random_resized"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True


def centre_crop(images: jax.Array, input_size: int) -> jax.Array:
    """Crop the centre of stored images, for validation and testing (Section IV-B).

    Args:
        images: uint8 `[B, S, S]`.
        input_size: side of the result in pixels.

    Returns:
        Gray levels, float32 `[B, input_size, input_size]` in 0..255.
    """
    low, _, high, _ = centre_box(images.shape[-1])
    return _resize(images[:, low:high, low:high], input_size)


def ten_windows(stored_size: int) -> np.ndarray:
    """List the windows of a ten-crop evaluation, as in torchvision's TenCrop; the centre first.

    Returns:
        int32 `[10, 3]`: xmin, ymin and whether to mirror the crop. The centre and the four corners
        come first, then the same five mirrored. Each window has the size of the centre crop.
    """
    margin, *_ = centre_box(stored_size)
    far = 2 * margin
    corners = [(margin, margin), (0, 0), (far, 0), (0, far), (far, far)]
    return np.array([(*corner, mirror) for mirror in (0, 1) for corner in corners], np.int32)


def crop_window(images: jax.Array, window: jax.Array, input_size: int) -> jax.Array:
    """Crop stored images `[B, S, S]` to one of `ten_windows`; the result is as `centre_crop`'s."""
    xmin, ymin, mirror = window
    low, _, high, _ = centre_box(images.shape[-1])
    size = (images.shape[0], high - low, high - low)
    corner = (jnp.zeros_like(ymin), ymin, xmin)  # a plain 0 would be int64 in a float64 run
    cropped = _resize(jax.lax.dynamic_slice(images, corner, size), input_size)
    return jnp.where(mirror, cropped[:, :, ::-1], cropped)


def window_views(
    count: int, window: jax.Array | np.ndarray, stored_size: int
) -> tuple[jax.Array, jax.Array]:
    """Say what one of `ten_windows` shows of `count` images; returns as `augmented_views`."""
    xmin, ymin, mirror = window
    low, _, high, _ = centre_box(stored_size)
    box = jnp.stack([xmin, ymin, xmin + high - low, ymin + high - low]).astype(jnp.int32)
    return jnp.broadcast_to(box, (count, 4)), jnp.broadcast_to(mirror != 0, count)


def augment(
    images: jax.Array,
    records: jax.Array,
    step: jax.Array,
    seed: int,
    input_size: int,
    augmentation: Augmentation,
) -> jax.Array:
    """Crop and flip a training batch at random.

    An image's crop depends only on the stage's seed, the step and the image's record number. It
    does not depend on the position in the batch or on the device, and a resumed run repeats it.

    Args:
        images: uint8 `[B, S, S]`.
        records: int32 `[B]`, each image's index in the dataset.
        step: int32 scalar, the training step.
        seed: the stage's seed.
        input_size: side of the result in pixels.
        augmentation: how to crop and flip.

    Returns:
        Gray levels, float32 `[B, input_size, input_size]` in 0..255.
    """
    windows, mirrored = augmented_views(records, step, seed, images.shape[-1], augmentation)
    if augmentation.crop == "centre":
        cropped = centre_crop(images, input_size)
    elif augmentation.crop == "random":
        cropped = _resize(_cut(images, windows), input_size)
    else:
        cropped = crop_and_resize(images, windows.astype(jnp.float32), input_size)
    if augmentation.flip:
        cropped = jnp.where(mirrored[:, None, None], cropped[:, :, ::-1], cropped)
    return cropped


def augmented_views(
    records: jax.Array, step: jax.Array, seed: int, stored_size: int, augmentation: Augmentation
) -> tuple[jax.Array, jax.Array]:
    """Draw what `augment` shows of each stored image of side `stored_size`.

    Returns:
        The window that it cuts out, int32 `[B, 4]`, `xmin, ymin, xmax, ymax` in pixels of the
        stored image, half-open; and whether it mirrors the crop then, bool `[B]`.
    """
    key = jax.random.fold_in(jax.random.key(seed), step)
    keys = jax.vmap(lambda record: jax.random.fold_in(key, record))(records)
    crop_keys, flip_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    if augmentation.crop == "centre":
        box = jnp.array(centre_box(stored_size), jnp.int32)
        windows = jnp.broadcast_to(box, (len(records), 4))
    elif augmentation.crop == "random":
        low, _, high, _ = centre_box(stored_size)
        windows = jax.vmap(lambda key: _place(key, stored_size, high - low, high - low))(crop_keys)
    elif augmentation.crop == "random_resized":
        windows = jax.vmap(lambda key: _random_box(key, stored_size, augmentation))(crop_keys)
    else:
        raise ValueError(f"crop is {augmentation.crop!r}; use one of {', '.join(CROPS)}")
    if augmentation.flip:
        return windows, jax.vmap(jax.random.bernoulli)(flip_keys)
    return windows, jnp.zeros(len(records), bool)


def _resize(images: jax.Array, size: int) -> jax.Array:
    """Resize `[B, S, S]` to float32 `[B, size, size]`, or float64 of float64 images."""
    images = images.astype(jnp.promote_types(images.dtype, jnp.float32))
    shape = (images.shape[0], size, size)
    return jax.image.resize(images, shape, "linear", precision=PRECISION)


def _cut(images: jax.Array, windows: jax.Array) -> jax.Array:
    """Cut windows as large as the centre crop out of images `[B, S, S]`."""
    low, _, high, _ = centre_box(images.shape[-1])
    side = high - low

    def cut(image: jax.Array, window: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (window[1], window[0]), (side, side))

    return jax.vmap(cut)(images, windows)


def _random_box(key: jax.Array, stored_size: int, augmentation: Augmentation) -> jax.Array:
    """Draw a RandomResizedCrop's box `xmin, ymin, xmax, ymax`, int32 `[4]`."""
    size_key, _, _ = jax.random.split(key, 3)
    return _place(key, stored_size, *_random_resized(size_key, stored_size, augmentation))


def _place(
    key: jax.Array, stored_size: int, width: int | jax.Array, height: int | jax.Array
) -> jax.Array:
    """Draw the place of a box of the given size; returns the box, int32 `[4]`."""
    _, x_key, y_key = jax.random.split(key, 3)
    xmin = jax.random.randint(x_key, (), 0, stored_size - width + 1)
    ymin = jax.random.randint(y_key, (), 0, stored_size - height + 1)
    return jnp.stack([xmin, ymin, xmin + width, ymin + height]).astype(jnp.int32)


def _random_resized(
    key: jax.Array, stored_size: int, augmentation: Augmentation
) -> tuple[jax.Array, jax.Array]:
    """Draw the width and height of a RandomResizedCrop: the first of ten draws that fits.

    If none fits, the crop is the whole image, as in torchvision for square images.
    """
    area_key, ratio_key = jax.random.split(key)
    low, high = augmentation.scale
    area = jax.random.uniform(area_key, (_ATTEMPTS,), minval=low, maxval=high) * stored_size**2
    low, high = (math.log(bound) for bound in augmentation.ratio)
    ratio = jnp.exp(jax.random.uniform(ratio_key, (_ATTEMPTS,), minval=low, maxval=high))
    widths = jnp.round(jnp.sqrt(area * ratio)).astype(jnp.int32)
    heights = jnp.round(jnp.sqrt(area / ratio)).astype(jnp.int32)
    fits = (widths > 0) & (widths <= stored_size) & (heights > 0) & (heights <= stored_size)
    first = jnp.argmax(fits)
    whole = jnp.int32(stored_size)
    return (
        jnp.where(fits.any(), widths[first], whole),
        jnp.where(fits.any(), heights[first], whole),
    )
