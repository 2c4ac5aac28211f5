"""Learning rates against values computed by hand."""

import types

import numpy as np
import pytest

from agcnn_jax.config.check import check_config
from agcnn_jax.config.strategies import Stage
from agcnn_jax.configs import common
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.training.schedule import make_schedule

GLOBAL = Stage(1, ("global",))


def schedule(stage=GLOBAL, images=1000, **settings):
    config = common.get_config()
    config.update(settings)
    check_config(config)
    experiment = types.SimpleNamespace(
        config=config, split=types.SimpleNamespace(train=np.arange(images))
    )
    return make_schedule(experiment, stage)


def test_the_papers():
    paper = schedule(images=128 * 10 + 3)
    assert (paper.batch_size, paper.steps_per_epoch, paper.total_steps) == (128, 10, 500)
    np.testing.assert_allclose(paper.learning_rates(), [0.01] * 200 + [0.001] * 300, rtol=1e-6)


@pytest.mark.parametrize(("rule", "expected"), [("none", 0.01), ("linear", 0.04), ("sqrt", 0.02)])
def test_scaling_rules(rule, expected):
    larger = schedule(batch_size=(512,), learning_rate_scaling=rule)
    assert larger.learning_rates()[0] == pytest.approx(expected)


@pytest.mark.parametrize("rule", ["none", "linear", "sqrt"])
def test_the_reference_batch_is_not_scaled(rule):
    assert schedule(learning_rate_scaling=rule).learning_rates()[0] == pytest.approx(0.01)


def test_each_branch_is_scaled_by_its_own_reference():
    rates = [
        schedule(
            Stage(1, (branch,)), batch_size=(512,), learning_rate_scaling="linear"
        ).learning_rates()[0]
        for branch in ("global", "local", "fusion")
    ]
    np.testing.assert_allclose(rates, [0.04, 0.08, 0.08], rtol=1e-6)


@pytest.mark.parametrize(
    ("branches", "batch_size", "expected"),
    [
        # The paper's batches need no scaling, in whichever stage: 64 / min(128, 64, 64).
        (("global", "local", "fusion"), (128, 64, 64), 0.01),
        (("global", "local"), (128, 64, 64), 0.01),
        (("local", "fusion"), (128, 64, 64), 0.01),
        # 256 / 64 and 32 / 64.
        (("global", "local", "fusion"), (512, 256, 256), 0.04),
        (("global", "local"), (32, 64, 64), 0.005),
        (("global",), (512, 256, 256), 0.04),
    ],
)
def test_a_joint_stage_is_scaled_by_its_smallest_reference(branches, batch_size, expected):
    joint = schedule(Stage(1, branches), batch_size=batch_size, learning_rate_scaling="linear")
    assert joint.learning_rates()[0] == pytest.approx(expected)


def test_a_joint_stage_takes_the_smallest_learning_rate():
    joint = schedule(
        Stage(1, ("global", "local")),
        batch_size=(256, 128, 64),
        learning_rate=(0.1, 0.02, 0.001),
        learning_rate_scaling="linear",
    )
    # 128 / 64 times the local branch's 0.02.
    assert joint.learning_rates()[0] == pytest.approx(0.04)


def test_warm_up_rises_in_equal_steps_and_then_follows_the_schedule():
    # 4 steps an epoch, 5 epochs, of which one warms up; the rate falls after 0.4 * 20 steps.
    warm = schedule(batch_size=(250,), epochs=(5,), warmup_epochs=1.0)
    np.testing.assert_allclose(
        warm.learning_rates(),
        [0.0025, 0.005, 0.0075, 0.01, *[0.01] * 4, *[0.001] * 12],
        rtol=1e-6,
    )


def test_the_cosine_falls_from_the_rate_to_nearly_nothing():
    # 4 steps an epoch and 2 epochs: Loshchilov and Hutter's Eq. 5 worked out for 8 steps.
    falling = schedule(batch_size=(250,), epochs=(2,), learning_rate_decay="cosine")
    by_hand = [1, 0.9619398, 0.8535534, 0.6913417, 0.5, 0.3086583, 0.1464466, 0.0380602]
    np.testing.assert_allclose(falling.learning_rates(), 0.01 * np.array(by_hand), rtol=1e-5)


def test_the_cosine_follows_the_planned_epochs_and_not_max_steps():
    cut = schedule(batch_size=(250,), epochs=(2,), learning_rate_decay="cosine", max_steps=3)
    np.testing.assert_allclose(cut.learning_rates(), [0.01, 0.009619398, 0.008535534], rtol=1e-5)


def test_a_training_subset_smaller_than_a_batch():
    with pytest.raises(UserError, match=r"config\.batch_size of stage 1_global is 128.*100 images"):
        schedule(images=100)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("accumulate", 0),
        ("warmup_epochs", float("inf")),
        ("weight_decay", float("nan")),
        ("warmup_epochs", -1.0),
        ("learning_rate_scaling", "cubic"),
        ("reference_batch_size", (0,)),
        ("reference_batch_size", (1, 2)),
        ("peer_timeout", 0),
        ("profile", -1),
        ("matmul_precision", "best"),
        ("batch_norm", "host"),
        ("init_normalisation", "mine"),
    ],
)
def test_values_that_cannot_be(key, value):
    config = common.get_config()
    config.update({key: value})
    with pytest.raises(UserError, match=rf"config\.{key} is "):
        check_config(config)
