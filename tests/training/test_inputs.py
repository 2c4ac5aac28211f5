"""Inputs, and crops from the stored images that they were cut from."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agcnn_jax.data.augment import Augmentation, ten_windows
from agcnn_jax.training.inputs import (
    attend_inputs,
    training_inputs,
    window_inputs,
)
from tests.support.small_steps import make_batch, make_recipe

pytestmark = pytest.mark.usefixtures("quick_compilation")

# The ratio of 256 and 224: a window as large as the centre crop copies stored pixels.
STORED, INPUT, BATCH = 64, 56, 8
FEATURES = np.random.default_rng(1).random((BATCH, 2, 2, 3)).astype(np.float32)


def attend_both(inputs_of, local_input="crop", **augmentation):
    """Inputs and attention of crops from the input and of crops from the stored images."""
    recipe = make_recipe(INPUT, augmentation=Augmentation(**augmentation))
    made = []
    for crop_from in ("input", "stored"):
        one = dataclasses.replace(recipe, crop_from=crop_from, local_input=local_input)

        @jax.jit
        def attend(one=one):
            inputs = inputs_of(recipe=one)
            return inputs, attend_inputs(inputs, FEATURES, one)

        made.append(jax.device_get(attend()))
    return made


def check_equal(usual, seen):
    (inputs, attention), (inputs_seen, attention_seen) = usual, seen
    assert inputs.stored is None
    assert inputs_seen.stored is not None
    np.testing.assert_array_equal(inputs_seen.images, inputs.images)
    np.testing.assert_array_equal(attention_seen.boxes, attention.boxes)
    assert (attention.boxes != [0, 0, INPUT, INPUT]).any()
    assert np.abs(attention_seen.local_images - attention.local_images).max() < 255 * 1e-4


@pytest.mark.parametrize("local_input", ["crop", "centred"])
def test_windows_of_stored_pixels_give_the_inputs_own_crops_in_training(local_input):
    batch = make_batch(BATCH, STORED)
    inputs_of = functools.partial(training_inputs, batch, jnp.int32(3))
    usual, seen = attend_both(inputs_of, local_input, crop="random")
    check_equal(usual, seen)
    assert 0 < seen[0].stored.mirrored.sum() < BATCH


def test_windows_of_stored_pixels_give_the_inputs_own_crops_in_prediction():
    images = make_batch(BATCH, STORED)["image"]
    check_equal(*attend_both(functools.partial(window_inputs, images)))
    corner = ten_windows(STORED)[8]
    assert corner[2]  # mirrored
    check_equal(*attend_both(functools.partial(window_inputs, images, window=corner)))


def test_a_random_resized_window_is_seen_in_the_stored_image():
    """A map without a region makes the crop the whole window: the input itself."""
    batch = make_batch(BATCH, STORED)
    recipe = dataclasses.replace(make_recipe(INPUT), crop_from="stored")

    @jax.jit
    def attend():
        inputs = training_inputs(batch, jnp.int32(3), recipe)
        return inputs, attend_inputs(inputs, jnp.zeros_like(FEATURES), recipe)

    inputs, attention = attend()
    assert np.abs(attention.local_images - inputs.images).max() < 255 * 1e-4
