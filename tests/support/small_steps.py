"""Steps of a small AG-CNN on random images."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from agcnn_jax.data.augment import Augmentation
from agcnn_jax.models.agcnn import AGCNN, init_variables, select_branches
from agcnn_jax.models.resnet import ResNet
from agcnn_jax.run.recipe import Recipe
from agcnn_jax.runtime.devices import BATCH_AXIS, REPLICATED, SHARDED, data_parallel
from agcnn_jax.training.steps import train_step

LABELS = 5


def make_recipe(input_size, dtype=jnp.float32, pooling="max", augmentation=Augmentation()):  # noqa: B008
    # Two bottlenecks, one of them with a stride: XLA compiles them in a few seconds.
    backbone = ResNet(blocks=(1, 1), width=8, axis_name=BATCH_AXIS, dtype=dtype)
    model = AGCNN(backbone, LABELS, pooling=pooling, mean=(0.5,), std=(0.25,))
    return Recipe(model, seed=0, input_size=input_size, augmentation=augmentation)


def make_variables(recipe):
    return random_variables(recipe.model, recipe.input_size)


def random_variables(model, input_size, seed=0):
    """Draw weights of usual sizes with NumPy; XLA would compile for many seconds."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        if name != "kernel":
            return jnp.full(leaf.shape, float(name in ("scale", "var")), leaf.dtype)
        scale = (2 / np.prod(leaf.shape[:-1])) ** 0.5
        return jnp.asarray(scale * rng.standard_normal(leaf.shape), leaf.dtype)

    shapes = jax.eval_shape(lambda key: init_variables(model, key, input_size), jax.random.key(0))
    return jax.tree.map_with_path(draw, shapes)


def make_batch(size, stored_size):
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (size, stored_size, stored_size), np.uint8),
        "labels": rng.integers(0, 2, (size, LABELS), np.uint8),
        "record": np.arange(size, dtype=np.int32),
    }


def split_variables(variables, stage):
    """Split variables into the branches that a stage trains and the frozen ones."""
    frozen = tuple(b for b in variables["params"] if b not in stage.branches)
    return select_branches(variables, stage.branches), select_branches(variables, frozen)


def make_step(recipe, stage, optimizer, mesh, **options):
    function = functools.partial(
        train_step, recipe=recipe, stage=stage, optimizer=optimizer, **options
    )
    return data_parallel(function, mesh, (REPLICATED, REPLICATED, SHARDED), REPLICATED)
