"""Inputs of the branches: the images cut out of stored ones, and where the global branch looks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from agcnn_jax.attention.attend import Attention, attend, cut_out
from agcnn_jax.attention.stored import Stored
from agcnn_jax.data.augment import (
    augment,
    augmented_views,
    centre_crop,
    crop_window,
    ten_windows,
    window_views,
)
from agcnn_jax.run.recipe import Recipe


class Inputs(NamedTuple):
    """The model's inputs of B stored images of side S.

    Attributes:
        images: gray levels `[B, s, s]` in 0..255, s the input size; float32, or float64 in a
            float64 run.
        stored: what they were cut from, if the local branch reads crops of that.
    """

    images: jax.Array
    stored: Stored | None


def training_inputs(batch: Mapping[str, Any], step: jax.Array, recipe: Recipe) -> Inputs:
    """Augment a batch for a step; see `agcnn_jax.data.augment.augment`.

    The batch holds `image` uint8 `[B, S, S]` and `record` int32 `[B]`.
    """
    images, records = batch["image"], batch["record"]
    drawn = (records, step, recipe.seed)
    augmented = augment(
        images.astype(recipe.image_dtype), *drawn, recipe.input_size, recipe.augmentation
    )
    if recipe.crop_from == "input":
        return Inputs(augmented, None)
    views = augmented_views(*drawn, images.shape[-1], recipe.augmentation)
    return Inputs(augmented, Stored(images, *views))


def window_inputs(images: jax.Array, recipe: Recipe, window: jax.Array | None = None) -> Inputs:
    """Cut the centre, or one of `ten_windows`, int32 `[3]`, out of images, uint8 `[B, S, S]`."""
    pixels, stored_size = images.astype(recipe.image_dtype), images.shape[-1]
    if window is None:
        cropped = centre_crop(pixels, recipe.input_size)
    else:
        cropped = crop_window(pixels, window, recipe.input_size)
    if recipe.crop_from == "input":
        return Inputs(cropped, None)
    place = ten_windows(stored_size)[0] if window is None else window
    return Inputs(cropped, Stored(images, *window_views(images.shape[0], place, stored_size)))


def attend_inputs(inputs: Inputs, feature_map: jax.Array, recipe: Recipe) -> Attention:
    """Find and cut out what the local branch reads; see `agcnn_jax.attention.attend.attend`."""
    return attend(
        inputs.images, feature_map, recipe.statistic, recipe.tau, recipe.local_input, inputs.stored
    )


def crop_inputs(inputs: Inputs, boxes: jax.Array) -> jax.Array:
    """Crop to boxes, int32 `[B, 4]` in pixels of the inputs; see `attend.cut_out`."""
    return cut_out(inputs.images, boxes, inputs.stored)


def attended(inputs: Inputs, feature_map: jax.Array, recipe: Recipe) -> jax.Array:
    """Make the local branch's input `[B, s, s]`, of the inputs' dtype."""
    if recipe.local_input == "image":
        return inputs.images
    return attend_inputs(inputs, feature_map, recipe).local_images
