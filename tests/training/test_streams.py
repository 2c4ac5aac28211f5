"""Random streams of stages: each has its own order of records and its own crops."""

import types

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agcnn_jax.config.strategies import Stage, stages
from agcnn_jax.configs import common
from agcnn_jax.runtime.devices import device_mesh
from agcnn_jax.training import fit, inputs
from agcnn_jax.training.schedule import sgd
from agcnn_jax.training.steps import init_state
from tests.support.small_steps import make_batch, split_variables

pytestmark = pytest.mark.usefixtures("quick_compilation")

STORED, INPUT, RECORDS = 40, 32, 8
PLAN = stages("G_L_F")


class Films:
    """A store of one film, so that only a crop's own draw makes it differ."""

    film = np.random.default_rng(0).integers(0, 256, (STORED, STORED), np.uint8)

    def __len__(self):
        return RECORDS

    def __getitem__(self, record):
        return {"image": self.film, "labels": np.zeros(5, np.uint8)}


def open_batches(recipe, stage, variables, cropper, count):
    config = common.get_config()
    config.attention.cropper = cropper
    experiment = types.SimpleNamespace(
        config=config,
        records=types.SimpleNamespace(images_and_labels=Films),
        split=types.SimpleNamespace(train=np.arange(RECORDS)),
        recipe=recipe,
        mesh=device_mesh(jax.devices()[:1]),
    )
    schedule = types.SimpleNamespace(stage=stage, batch_size=RECORDS)
    batches = fit.open_batches(experiment, schedule, variables)
    read = [jax.device_get(next(batches)) for _ in range(count)]
    batches.close()
    return read


def test_no_stage_repeats_anothers_order(recipe):
    def order(stage):
        read = open_batches(recipe, stage, {}, "device", 12)
        return [tuple(batch["record"]) for batch in read]

    orders = [order(stage) for stage in PLAN]
    assert orders == [order(stage) for stage in PLAN]
    # Of 36 orders out of 8! two may be alike by chance.
    assert len(set().union(*orders)) >= 35


def test_no_stage_repeats_anothers_crops_on_the_host(recipe, variables):
    def crops(stage):
        read = open_batches(recipe, stage, variables, "host", 2)
        return np.concatenate([batch["local_images"] for batch in read]).reshape(2 * RECORDS, -1)

    second, third, again = (crops(stage) for stage in (PLAN[1], PLAN[2], PLAN[1]))
    np.testing.assert_array_equal(second, again)
    assert len(np.unique(np.concatenate([second, third]), axis=0)) == 4 * RECORDS


def test_no_stage_repeats_anothers_crops_on_the_device(recipe, variables, monkeypatch):
    drawn = []

    def augment(images, records, step, seed, input_size, augmentation):
        drawn.append(seed)
        return jax.numpy.zeros((len(images), input_size, input_size))

    monkeypatch.setattr(inputs, "augment", augment)
    optimizer = sgd(0.1, 10, 10.0, 0.9, 1e-4)[0]
    for stage in (*PLAN, PLAN[1]):
        trained, frozen = split_variables(variables, stage)
        step = fit.make_train_step(
            types.SimpleNamespace(recipe=recipe, mesh=device_mesh(jax.devices()[:1])),
            types.SimpleNamespace(stage=stage, optimizer=optimizer, accumulate=1),
        )
        jax.eval_shape(step, init_state(trained, optimizer), frozen, make_batch(RECORDS, STORED))
    assert drawn == [stage.seed(recipe.seed) for stage in (*PLAN, PLAN[1])]
    assert len(set(drawn)) == 3


@given(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1))
def test_seeds_of_stages_are_in_range_and_differ(first, second):
    seeds = {
        (run, number): Stage(number, ("global",)).seed(run)
        for run in (first, second)
        for number in (1, 2, 3)
    }
    assert all(0 <= seed < 2**31 for seed in seeds.values())
    assert len(set(seeds.values())) == len(seeds)


def test_seeds_of_neighbouring_runs_and_stages_differ():
    seeds = [Stage(number, ("global",)).seed(run) for run in range(100) for number in (1, 2, 3)]
    assert len(set(seeds)) == len(seeds)
