"""What a prediction says that it has read."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest

from agcnn_jax.models.agcnn import init_variables
from agcnn_jax.training.steps import predict_step
from tests.small_steps import make_recipe


@pytest.mark.parametrize(
    ("local_input", "branches", "boxes"),
    [
        ("crop", {"global", "fusion"}, True),
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
