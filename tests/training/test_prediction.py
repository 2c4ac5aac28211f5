"""Inputs of a prediction: the centre crop, or ten crops, and regions of them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from agcnn_jax.models.agcnn import BRANCHES, init_variables
from agcnn_jax.runtime.devices import device_mesh, replicate, shard_batch
from agcnn_jax.training.predict_step import EXTRAS, make_predict_step, predict_step
from tests.support.small_steps import make_batch, make_recipe, make_variables


@pytest.mark.parametrize(
    ("local_input", "branches", "boxes"),
    [
        ("crop", {"global", "fusion"}, True),
        ("centred", {"global", "fusion"}, True),
        ("image", {"fusion"}, False),
        ("crop", {"global"}, False),
    ],
)
def test_boxes_are_of_crops_that_were_read(local_input, branches, boxes):
    recipe = dataclasses.replace(make_recipe(32), local_input=local_input)
    shapes = jax.eval_shape(
        lambda key: init_variables(recipe.model, key, recipe.input_size), jax.random.key(0)
    )
    step = functools.partial(predict_step, recipe=recipe, branches=branches)
    outputs = jax.eval_shape(step, shapes, jax.ShapeDtypeStruct((2, 40, 40), jnp.uint8))
    assert ("boxes" in outputs) == boxes
    assert set(outputs) - {"boxes"} == branches


@pytest.mark.parametrize(
    ("crop_from", "local_input", "crops"),
    [("input", "crop", "centre"), ("stored", "centred", "ten")],
)
def test_with_the_host_in_between_predicts_what_one_program_does(crop_from, local_input, crops):
    recipe = dataclasses.replace(make_recipe(32), crop_from=crop_from, local_input=local_input)
    variables, images = make_variables(recipe), make_batch(8, 40)["image"]
    asked = {"branches": BRANCHES, "crops": crops, "extras": EXTRAS}
    one = jax.jit(functools.partial(predict_step, recipe=recipe, **asked))(variables, images)
    mesh = device_mesh(jax.devices()[:4])
    step = make_predict_step(recipe, mesh, **asked)
    assert not hasattr(step, "lower")  # this is a CPU: not one compiled program
    two = jax.device_get(step(replicate(mesh, variables), shard_batch(mesh, images)))
    assert set(two) == set(one) == {*BRANCHES, *EXTRAS, "boxes"}
    np.testing.assert_array_equal(two["boxes"], one["boxes"])
    assert len(np.unique(two["boxes"], axis=0)) > 1
    for name in (*BRANCHES, *EXTRAS):
        np.testing.assert_allclose(two[name], one[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("crop_from", ["input", pytest.param("stored", marks=pytest.mark.slow)])
def test_ten_crops_are_averaged_on_one_and_on_many_devices(crop_from):
    # Stored images are as large as the margins need, so that no crop is resized.
    recipe, stored, side = make_recipe(56), 64, 56
    variables, images = make_variables(recipe), make_batch(8, stored)["image"]
    far = stored - side
    crops = [
        images[:, y : y + side, x : x + side]
        for x, y in [(far // 2, far // 2), (0, 0), (far, 0), (0, far), (far, far)]
    ]
    crops += [crop[:, :, ::-1] for crop in crops]
    # The centre crop of an image that is padded to the stored size is the crop itself.
    padded = [np.pad(crop, ((0, 0), (4, 4), (4, 4))) for crop in crops]
    mesh = device_mesh(jax.devices()[:1])
    centre = make_predict_step(recipe, mesh, BRANCHES)
    each = [jax.device_get(centre(variables, image)) for image in padded]
    expected = {
        branch: np.mean([expit(one[branch]) for one in each], axis=0) for branch in BRANCHES
    }
    # The input copies stored pixels, so crops of either are the same.
    recipe = dataclasses.replace(recipe, crop_from=crop_from)
    for devices in (1, 4):
        mesh = device_mesh(jax.devices()[:devices])
        step = make_predict_step(recipe, mesh, BRANCHES, "ten")
        ten = jax.device_get(step(replicate(mesh, variables), shard_batch(mesh, images)))
        for branch in BRANCHES:
            # Rounding a logit of -23 alone moves its tiny probability by some 1e-6 of itself.
            np.testing.assert_allclose(expit(ten[branch]), expected[branch], rtol=1e-5, atol=1e-9)
            assert np.abs(ten[branch] - each[0][branch]).max() > 1e-4
        np.testing.assert_array_equal(ten["boxes"], each[0]["boxes"])
