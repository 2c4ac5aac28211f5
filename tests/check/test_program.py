"""What is said of a stage's step: memory, losses, parameters, checkpoints."""

import json

import jax
import numpy as np
import pytest

from agcnn_jax.check.program import judge_stage, out_of_memory, run_steps
from agcnn_jax.runtime.errors import UserError

FIGURES = {
    "images": 64,
    "steps": 100,
    "first_batch": 1.0,
    "compile": 20.0,
    "memory": {"peak": 2**30},
    "device_memory": 16 * 2**30,
    "compile_again": 2.0,
    "losses": [0.7, 0.6, 0.5],
    "weights_finite": True,
    "parameters": ["aa", "aa"],
    "timed": 10,
    "fed": 0.2,
    "resident": 0.1,
    "validation": {"first": 3.0, "first_again": 1.0, "all": 2.0},
    "checkpoint_bytes": 4_000_000,
}
CHECKPOINT = {"training_waits": 0.1, "write": 0.5, "list": 0.1, "read": 0.2, "delete": 0.1}
HOSTS = ["a", "b"]


def test_a_stage_that_works():
    part = judge_stage(
        "1_global", FIGURES | {"checkpoint": CHECKPOINT | {"as_written": True}}, HOSTS
    )
    assert part.failures == ()
    assert part.figures["parameters_equal"] is True
    assert part.lines == (
        "1_global: compiled in 20.0 s, 1,024 MiB of 16,384 a device; a step of 64 images 200.0 ms "
        "fed, 100.0 resident; loss 0.5000",
        "1_global: checkpoint of 4.00 MB: write 0.50 s, read 0.20 s, delete 0.10 s",
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_that_is_not_finite(value):
    part = judge_stage("1_global", FIGURES | {"losses": [0.7, value, np.nan]}, HOSTS)
    [failure] = part.failures
    assert failure.startswith(
        f"stage 1_global: the loss is {value} at step 2; try a smaller config.l"
    )
    assert part.figures["losses"] == [0.7, str(value), "nan"]
    assert "NaN" not in json.dumps(part.figures)


def test_weights_that_are_not_finite():
    [failure] = judge_stage("1_global", FIGURES | {"weights_finite": False}, HOSTS).failures
    assert failure.startswith("stage 1_global: weights are not finite after step 3; try a smaller")


def test_parameters_that_differ():
    part = judge_stage("1_global", FIGURES | {"parameters": ["aa", "ab"]}, HOSTS)
    [failure] = part.failures
    assert "after 3 steps process 1 on b has other parameters than process 0" in failure
    assert part.figures["parameters_equal"] is False


def test_a_checkpoint_that_is_not_read_as_it_was_written():
    broken = FIGURES | {"checkpoint": CHECKPOINT | {"as_written": False}}
    [failure] = judge_stage("1_global", broken, HOSTS).failures
    assert "is not read as it was written; choose a --workdir on another" in failure
    failed = FIGURES | {"checkpoint_failed": "/x cannot be written: it is full; free some space"}
    [failure] = judge_stage("1_global", failed, HOSTS).failures
    assert failure == "stage 1_global: /x cannot be written: it is full; free some space"


def test_a_device_without_memory_for_a_program():
    def run_out():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory on gpu:0\nmore")

    with pytest.raises(UserError, match=r"out of memory on gpu:0.*raise --config.accumulate"):
        out_of_memory(run_out)

    def fail():
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        out_of_memory(fail)


def test_steps_go_through_the_batches():
    step = lambda state, frozen, batch: (state + batch, {"loss": frozen * batch})  # noqa: E731
    state, losses, seconds = run_steps(step, 1, 10, iter([1, 2, 3, 4]), 3)
    assert (state, losses) == (7, [10, 20, 30])
    assert seconds > 0
