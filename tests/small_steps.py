"""Steps of a small AG-CNN on random images, for tests of what a step does."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from agcnn_jax.data.augment import Augmentation
from agcnn_jax.models.agcnn import AGCNN, init_variables
from agcnn_jax.models.layers import BATCH_AXIS
from agcnn_jax.models.registry import make_backbone
from agcnn_jax.training.parallel import REPLICATED, SHARDED, data_parallel
from agcnn_jax.training.steps import Recipe, select_branches, train_step

LABELS = 5


def make_recipe(input_size, dtype=jnp.float32, pooling="max", augmentation=Augmentation()):  # noqa: B008
    backbone = make_backbone("resnet_small", BATCH_AXIS, dtype)
    model = AGCNN(backbone, LABELS, pooling=pooling, mean=(0.5,), std=(0.25,))
    return Recipe(model, seed=0, input_size=input_size, augmentation=augmentation)


def make_variables(recipe):
    make = jax.jit(lambda key: init_variables(recipe.model, key, recipe.input_size))
    return make(jax.random.key(0))


def make_batch(size, stored_size):
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (size, stored_size, stored_size), np.uint8),
        "labels": rng.integers(0, 2, (size, LABELS), np.uint8),
        "record": np.arange(size, dtype=np.int32),
    }


def split_variables(variables, stage):
    """The branches that a stage trains, and the frozen ones."""
    frozen = tuple(b for b in variables["params"] if b not in stage.branches)
    return select_branches(variables, stage.branches), select_branches(variables, frozen)


def make_step(recipe, stage, optimizer, mesh, **options):
    function = functools.partial(
        train_step, recipe=recipe, stage=stage, optimizer=optimizer, **options
    )
    return data_parallel(function, mesh, (REPLICATED, REPLICATED, SHARDED), REPLICATED)
