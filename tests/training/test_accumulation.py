"""Micro-batches: the gradient of the whole batch, whatever shares it, in less memory."""

import functools

import jax
import numpy as np
import pytest

from agcnn_jax.config.strategies import Stage
from agcnn_jax.runtime.devices import device_mesh, replicate, shard_batch
from agcnn_jax.training.schedule import sgd
from agcnn_jax.training.steps import init_state, split_rows
from tests.support.small_steps import make_step, split_variables

STORED, INPUT, BATCH = 40, 32, 16
LEARNING_RATE = 0.5
GLOBAL, FUSION = Stage(1, ("global",)), Stage(3, ("fusion",))


def optimizer():
    """Without momentum and decay, so that a step's change is the gradient."""
    return sgd(LEARNING_RATE, drop_step=99, drop_factor=1.0, momentum=0.0, weight_decay=0.0)[0]


@functools.cache
def prepare(recipe, stage, mesh, accumulate):
    return make_step(recipe, stage, optimizer(), mesh, accumulate=accumulate)


def run_step(recipe, variables, batch, stage, accumulate=1, devices=1):
    mesh = device_mesh(jax.devices()[:devices])
    trained, frozen = split_variables(variables, stage)
    step = prepare(recipe, stage, mesh, accumulate)
    state = replicate(mesh, init_state(trained, optimizer()))
    state, metrics = step(state, replicate(mesh, frozen), shard_batch(mesh, batch))
    return jax.device_get((state.variables, metrics))


def gradient(before, after):
    return jax.tree.map(
        lambda old, new: (old - new) / LEARNING_RATE,
        before["params"]["global"],
        after["params"]["global"],
    )


def assert_close(ours, theirs, **tolerance):
    for (path, a), b in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, err_msg=jax.tree_util.keystr(path), **tolerance)


@pytest.mark.parametrize(
    "accumulate",
    [pytest.param(2, marks=pytest.mark.slow), 4, pytest.param(16, marks=pytest.mark.slow)],
)
def test_without_batch_norm_it_is_the_larger_batch(recipe, variables, batch, accumulate):
    whole = run_step(recipe, variables, batch, FUSION)
    parts = run_step(recipe, variables, batch, FUSION, accumulate)
    assert_close(parts, whole, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_with_batch_norm_it_is_the_mean_over_micro_batches(recipe, variables, batch):
    """Against steps of the micro-batches, one by one, that share BatchNorm's statistics alone."""
    accumulate = 4
    gradients, losses, state = [], [], variables
    for part in range(accumulate):
        rows = {name: array[part::accumulate] for name, array in batch.items()}
        after, metrics = run_step(recipe, state, rows, GLOBAL)
        gradients.append(gradient(variables, after))
        losses.append(metrics["loss"])
        # The statistics move on; the parameters do not.
        statistics = {**variables["batch_stats"], **after["batch_stats"]}
        state = {"params": variables["params"], "batch_stats": statistics}
    mean = jax.tree.map(lambda *parts: np.mean(parts, axis=0), *gradients)
    after, metrics = run_step(recipe, variables, batch, GLOBAL, accumulate)
    assert_close(gradient(variables, after), mean, rtol=1e-3, atol=1e-5)
    assert_close(after["batch_stats"]["global"], statistics["global"], rtol=1e-5, atol=1e-6)
    assert metrics["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    # And not the larger batch's, which BatchNorm would have normalised as one.
    whole, _ = run_step(recipe, variables, batch, GLOBAL)
    difference = jax.tree.map(
        lambda a, b: float(np.abs(a - b).max()), whole["params"], after["params"]
    )
    assert max(jax.tree.leaves(difference)) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4])
def test_the_number_of_devices_does_not_matter(recipe, variables, batch, devices):
    one = run_step(recipe, variables, batch, GLOBAL, accumulate=4)
    several = run_step(recipe, variables, batch, GLOBAL, accumulate=4, devices=devices)
    assert_close(several, one, rtol=1e-3, atol=1e-5)


def test_micro_batches_of_all_devices_hold_the_same_images():
    rows = {"record": np.arange(16)}
    whole = split_rows(rows, 4)["record"]
    shares = [split_rows({"record": rows["record"][i * 8 : i * 8 + 8]}, 4) for i in range(2)]
    together = np.concatenate([share["record"] for share in shares], axis=1)
    np.testing.assert_array_equal(together, whole)
    assert sorted(np.asarray(whole).ravel()) == list(range(16))


@pytest.mark.slow
def test_it_needs_less_memory(recipe, variables, batch):
    mesh = device_mesh(jax.devices()[:1])
    trained, frozen = split_variables(variables, GLOBAL)
    arguments = (init_state(trained, optimizer()), frozen, batch)

    def scratch(accumulate):
        step = prepare(recipe, GLOBAL, mesh, accumulate)
        return step.lower(*arguments).compile().memory_analysis().temp_size_in_bytes

    assert scratch(8) < 0.5 * scratch(1)
