"""The table of parameters and the memory of a step, against values worked out by hand."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agcnn_jax.runtime.errors import UserError
from agcnn_jax.training.memory import GIB, check_memory, parameter_table, step_memory

VARIABLES = {
    "params": {
        "global": {"backbone": {"conv": {"kernel": np.zeros((3, 3, 1, 64))}}},
        "fusion": {"head": {"bias": np.zeros(15), "kernel": np.zeros((4096, 15))}},
    },
    "batch_stats": {"global": {"backbone": {"mean": np.zeros(64)}}, "fusion": {}},
}
NEEDED = {"argument": GIB, "output": GIB, "temp": 17 * GIB, "alias": GIB, "total": 18 * GIB}
NEEDED["peak"] = 16 * GIB


class Device:
    """A device that reports its memory as a GPU does."""

    def __init__(self, stats):
        self.memory_stats = lambda: stats

    def __str__(self):
        return "gpu:0"


def test_parameters_with_totals():
    assert parameter_table(VARIABLES).splitlines() == [
        "parameter                    shape      count",
        "global/backbone/conv/kernel  3x3x1x64     576",
        "global, total                             576",
        "fusion/head/bias             15            15",
        "fusion/head/kernel           4096x15   61,440",
        "fusion, total                          61,455",
        "all branches                           62,031",
    ]


def test_parameters_from_shapes_alone():
    shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, VARIABLES))
    assert parameter_table(shapes) == parameter_table(VARIABLES)


def test_memory_of_a_step_that_donates_its_state():
    def step(state, batch):
        return state + batch.sum(), batch.mean()

    state, batch = jnp.zeros(1000, jnp.float32), jnp.zeros(500, jnp.float32)
    memory = step_memory(jax.jit(step, donate_argnums=0).lower(state, batch).compile())
    assert memory["argument"] == 6000
    assert memory["alias"] == 4000
    assert memory["output"] >= 4004  # a tuple's pointers count too
    assert memory["total"] == memory["output"] + memory["temp"] + 2000
    assert 0 < memory["peak"] <= memory["total"]


def test_without_an_analysis():
    assert step_memory(SimpleNamespace(memory_analysis=lambda: None)) is None


def test_a_step_that_fits():
    check_memory(NEEDED, Device({"bytes_limit": 16 * GIB}))


@pytest.mark.parametrize("stats", [None, {}, {"bytes_in_use": 0}])
def test_a_device_without_a_limit(stats):
    check_memory(NEEDED, Device(stats))


def test_this_cpu():
    check_memory(NEEDED, jax.devices("cpu")[0])


def test_a_step_that_does_not_fit():
    with pytest.raises(UserError) as raised:
        check_memory(NEEDED, Device({"bytes_limit": 16 * GIB - 1, "bytes_in_use": 0}))
    message = str(raised.value)
    assert message.startswith(
        "a training step needs 16.00 GiB (arguments 1.00, outputs 1.00, scratch 17.00, reused "
        "1.00) and gpu:0 allows 16.00 GiB"
    )
    for key in ("accumulate", "batch_size", "input_size", "dtype"):
        assert f"--config.{key}" in message
