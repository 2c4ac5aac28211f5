"""`config.batch_norm="device"`: every device normalises by its own share of the batch."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from agcnn_jax.config.strategies import Stage
from agcnn_jax.data.augment import Augmentation
from agcnn_jax.models.agcnn import normalise
from agcnn_jax.models.layers import BatchNorm, Conv
from agcnn_jax.models.resnet import ResNet
from agcnn_jax.runtime.devices import (
    REPLICATED,
    SHARDED,
    data_parallel,
    device_mesh,
    replicate,
    shard_batch,
)
from agcnn_jax.training.inputs import training_inputs
from agcnn_jax.training.schedule import sgd
from agcnn_jax.training.steps import init_state
from tests.support.small_steps import make_batch, make_recipe, make_step, split_variables

pytestmark = pytest.mark.usefixtures("quick_compilation")

INPUT, BATCH, DEVICES = 32, 16, 4
SHARE = BATCH // DEVICES
GLOBAL = Stage(1, ("global",))


def recipe_over(axis_name):
    """Of a network with five BatchNorms."""
    recipe = make_recipe(INPUT, pooling="avg", augmentation=Augmentation("centre"))
    backbone = ResNet(blocks=(1,), width=8, axis_name=axis_name)
    return dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, backbone=backbone))


@pytest.fixture(scope="module")
def recipe():
    """Of a network whose BatchNorms exchange nothing."""
    return recipe_over(None)


@pytest.fixture(scope="module")
def batch():
    batch = make_batch(BATCH, 40)
    # Shares that differ in brightness and contrast, so that it matters who normalises them.
    factor = np.repeat(np.linspace(0.2, 1.0, DEVICES), SHARE)[:, None, None]
    return {**batch, "image": (batch["image"] * factor).astype(np.uint8)}


def optimizer():
    return sgd(0.1, drop_step=1000, drop_factor=10.0, momentum=0.9, weight_decay=1e-2)[0]


def prepare(recipe, variables, batch, devices, **options):
    mesh = device_mesh(jax.devices()[:devices])
    trained, frozen = split_variables(variables, GLOBAL)
    step = make_step(recipe, GLOBAL, optimizer(), mesh, **options)
    state = replicate(mesh, init_state(trained, optimizer()))
    return step, (state, replicate(mesh, frozen), shard_batch(mesh, batch))


@pytest.fixture(scope="module")
def stepped(recipe, variables, batch):
    """The state and the losses after one step on all devices, and the compiled step."""
    step, arguments = prepare(recipe, variables, batch, DEVICES)
    compiled = step.lower(*arguments).compile()
    return jax.device_get(compiled(*arguments)), compiled.as_text()


def test_the_layer_is_numpys_share_by_share():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(DEVICES, 3, 5, 4, 6)) * rng.uniform(0.5, 3, (DEVICES, 1, 1, 1, 6))
    x = (x + rng.normal(size=(DEVICES, 1, 1, 1, 6))).astype(np.float32)
    norm = BatchNorm()
    variables = norm.init(jax.random.key(0), x[0], False)

    def normalise_share(variables, x):
        y, updated = norm.apply(variables, x, True, mutable=["batch_stats"])
        return y, jax.lax.pmean(updated["batch_stats"], "batch")

    mapped = data_parallel(
        normalise_share,
        device_mesh(jax.devices()[:DEVICES]),
        (REPLICATED, SHARDED),
        (SHARDED, REPLICATED),
    )
    y, running = mapped(variables, x.reshape(-1, *x.shape[2:]))
    flat = x.astype(np.float64).reshape(DEVICES, -1, 6)
    mean, var = flat.mean(1, keepdims=True), flat.var(1, keepdims=True)
    expected = (flat - mean) / np.sqrt(var + 1e-5)
    np.testing.assert_allclose(np.asarray(y).reshape(flat.shape), expected, atol=1e-5)
    np.testing.assert_allclose(running["mean"], 0.1 * mean.mean((0, 1)), rtol=1e-5, atol=1e-7)
    unbiased = flat.var(1, ddof=1).mean(0)
    np.testing.assert_allclose(running["var"], 0.9 + 0.1 * unbiased, rtol=1e-5)


def test_the_first_layers_running_statistics_are_the_mean_of_the_devices(
    recipe, variables, batch, stepped
):
    images = normalise(recipe.model, training_inputs(batch, 0, recipe).images)
    kernel = variables["params"]["global"]["backbone"]["conv1"]
    x = Conv(8, 7, 2).apply({"params": kernel}, images)
    flat = np.asarray(x, np.float64).reshape(DEVICES, -1, x.shape[-1])
    running = stepped[0][0].variables["batch_stats"]["global"]["backbone"]["bn1"]
    np.testing.assert_allclose(running["mean"], 0.1 * flat.mean(1).mean(0), rtol=1e-4, atol=1e-6)
    unbiased = flat.var(1, ddof=1)
    np.testing.assert_allclose(running["var"], 0.9 + 0.1 * unbiased.mean(0), rtol=1e-4)
    # The whole batch's variance is another: the shares' means differ.
    whole = flat.reshape(-1, x.shape[-1]).var(0, ddof=1)
    assert np.abs(whole / unbiased.mean(0) - 1).max() > 0.01


def test_a_step_is_the_mean_of_what_each_device_would_do_alone(recipe, variables, batch, stepped):
    """SGD's first step is linear in the gradient, so that whole states may be averaged."""
    step, (state, frozen, _) = prepare(recipe, variables, batch, 1)
    alone = []
    for start in range(0, BATCH, SHARE):
        share = {name: value[start : start + SHARE] for name, value in batch.items()}
        alone.append(jax.device_get(step(state, frozen, share)))
    expected = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *alone)
    for (path, ours), mean in zip(
        jax.tree.leaves_with_path(stepped[0]), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(
            ours, mean, rtol=1e-4, atol=2e-6, err_msg=jax.tree_util.keystr(path)
        )


def test_a_step_gives_another_result_than_with_the_whole_batchs_statistics(
    variables, batch, stepped
):
    step, arguments = prepare(recipe_over("batch"), variables, batch, DEVICES)
    _, metrics = jax.device_get(step(*arguments))
    assert abs(metrics["loss"] - stepped[0][1]["loss"]) > 1e-3


def count_collectives(compiled):
    return len(re.findall(r"^ *\S+ = .* all-reduce(?:-start)?\(", compiled, re.MULTILINE))


def test_one_collective_a_step(recipe, variables, batch, stepped):
    """Losses, gradients and statistics together; or with each BatchNorm, there and back."""
    assert count_collectives(stepped[1]) == 1
    step, arguments = prepare(recipe_over("batch"), variables, batch, DEVICES)
    assert count_collectives(step.lower(*arguments).compile().as_text()) >= 8


def test_micro_batches_move_each_devices_statistics_in_turn(recipe, variables, batch):
    step, arguments = prepare(recipe, variables, batch, DEVICES, accumulate=2)
    compiled = step.lower(*arguments).compile()
    # One for the losses of each micro-batch, one for everything else.
    assert count_collectives(compiled.as_text()) == 2
    state, _ = jax.device_get(compiled(*arguments))
    running = state.variables["batch_stats"]["global"]["backbone"]["bn1"]
    images = normalise(recipe.model, training_inputs(batch, 0, recipe).images)
    kernel = variables["params"]["global"]["backbone"]["conv1"]
    x = np.asarray(Conv(8, 7, 2).apply({"params": kernel}, images), np.float64)
    expected = []
    for share in x.reshape(DEVICES, SHARE, -1, x.shape[-1]):
        first, second = (part.reshape(-1, x.shape[-1]) for part in (share[::2], share[1::2]))
        expected.append(0.9 * 0.1 * first.mean(0) + 0.1 * second.mean(0))
    np.testing.assert_allclose(running["mean"], np.mean(expected, 0), rtol=1e-4, atol=1e-6)
