import itertools
import os
import shutil
import types

import numpy as np
import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from agcnn_jax.config.check import check_config
from agcnn_jax.config.keys import flatten
from agcnn_jax.config.strategies import STRATEGIES, Stage
from agcnn_jax.run import takeover
from agcnn_jax.run.checkpoints import StageCheckpoints
from agcnn_jax.run.stage_results import digests, load_best, read_result, stage_directory
from agcnn_jax.run.takeover import stage_values, take_over
from agcnn_jax.runtime.storage import write_json
from tests.configs import demo
from tests.run.test_checkpoints import IDENTITY, Position


def values(count=1, **changes):
    config = demo.get_config()
    config.update_from_flattened_dict(changes)
    check_config(config)
    return stage_values(flatten(config.to_dict()), count)


@pytest.mark.parametrize(
    "changes",
    [
        {"attention.tau": 0.1},
        {"attention.statistic": "l2"},
        {"local_input": "image"},
        {"strategy": "G_LF"},
        {"strategy": "G_L_F*"},
        {"batch_size": (8, 4, 2)},
        {"epochs": (10, 1, 1)},
        {"learning_rate": (0.15, 0.1, 0.1)},
        {"eval_batch_size": 2},
        {"log_every": 1},
    ],
)
def test_the_global_stage_does_not_depend_on_what_comes_after_it(changes):
    assert values(**changes) == values()


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"strategy": "GL_F"},
        {"strategy": "GLF"},
        {"batch_size": (4, 8, 32)},
        {"epochs": (9, 9, 3)},
        {"max_steps": 5},
        {"augment.flip": False},
        {"data.protocol": "random"},
        {"input_size": 64},
    ],
)
def test_the_global_stage_depends_on_what_it_is_trained_with(changes):
    assert values(**changes) != values()


@pytest.mark.parametrize(
    "changes", [{"attention.tau": 0.1}, {"local_input": "image"}, {"epochs": (10, 8, 3)}]
)
def test_the_local_stage_depends_on_what_it_reads(changes):
    assert values(2, **changes) != values(2)
    assert values(2, epochs=(10, 9, 2)) == values(2)


@given(st.sampled_from(sorted(STRATEGIES)), st.sampled_from(sorted(STRATEGIES)))
def test_stages_are_shared_exactly_as_long_as_strategies_agree(one, other):
    shared = 0
    for first, second in itertools.zip_longest(STRATEGIES[one], STRATEGIES[other]):
        if first != second:
            break
        shared += 1
    for count in range(1, min(len(STRATEGIES[one]), len(STRATEGIES[other])) + 1):
        # A strategy that is GLF alone reads no key of the cropper.
        same = values(count, strategy=one) == values(count, strategy=other)
        assert same == (count <= shared)


GLOBAL = Stage(1, ("global",))


class Killed(BaseException):
    """Ends a copy as nothing that it expects does."""


def finish_stage(workdir, value=1.0):
    """Finish the global stage of a run, with one weight."""
    directory = stage_directory(workdir, GLOBAL)
    branch = {"global": {"w": np.full(3, value, np.float32)}}
    state = {"variables": {"params": branch, "batch_stats": branch}}
    with StageCheckpoints(directory / "checkpoints", IDENTITY) as checkpoints:
        checkpoints.save(7, state, Position(7))
        checkpoints.add_score(7, 0.5, 3)
    scores = {"best_step": 7, "best_val_auc_mean": 0.5, "val_auc_findings": 3}
    scores |= {"image_size": 64, "val_auc": {}}
    origin = {"started_from": {}, "lineage": "seen"}
    weights = digests(state["variables"], ["global"])
    write_json(directory / "result.json", {**scores, **origin, "weights": weights})


def take(workdir, *donors, batch_norm="global"):
    """Take over what runs in the folders `donors` offer, all of which agree; returns the words."""
    config = demo.get_config()
    config.batch_norm = batch_norm
    experiment = types.SimpleNamespace(workdir=workdir, config=config, identity=IDENTITY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(takeover, "_agrees", lambda _, donor, init, count: count == 1)
        return take_over(experiment, "seen", None, [os.fspath(donor) for donor in donors])


def taken(workdir):
    """Check that the stage is there as a whole, and return its weight."""
    directory = stage_directory(workdir, GLOBAL)
    variables, _ = load_best(directory, GLOBAL, read_result(directory), IDENTITY)
    return variables["params"]["global"]["w"][0]


def kill(patch, number, *functions):
    """Let the call with this number, of all these functions together, end after its work."""
    calls = itertools.count(1)

    def last(function):
        def call(*arguments, **options):
            result = function(*arguments, **options)
            if next(calls) == number:
                raise Killed
            return result

        return call

    for module, name in functions:
        patch.setattr(module, name, last(getattr(module, name)))


@pytest.fixture(scope="module")
def donor(tmp_path_factory):
    donor = epath.Path(tmp_path_factory.mktemp("donor"))
    finish_stage(donor)
    return donor


def test_a_copy_killed_at_any_point_is_repeated(donor, tmp_path):
    functions = ((os, "link"), (os, "rename"), (shutil, "copytree"), (shutil, "copy2"))
    for number in itertools.count(1):
        workdir = epath.Path(tmp_path) / str(number)
        with pytest.MonkeyPatch.context() as patch:
            kill(patch, number, *functions)
            try:
                take(workdir, donor)
            except Killed:
                killed = True
            else:
                killed = False
        # All of it is there, or nothing counts as begun.
        directory = stage_directory(workdir, GLOBAL)
        assert directory.exists() == (read_result(directory) is not None)
        take(workdir, donor)
        assert taken(workdir) == 1
        assert [path.name for path in directory.parent.iterdir()] == ["1_global"]
        if not killed:
            break
    assert number > 10


def test_a_folder_without_a_checkpoint_is_no_obstacle(donor, tmp_path):
    workdir = epath.Path(tmp_path)
    (stage_directory(workdir, GLOBAL) / "checkpoints" / "7.orbax-checkpoint-tmp").mkdir(
        parents=True
    )
    assert take(workdir, donor) == [f"stage 1_global is taken over from {donor}"]
    assert taken(workdir) == 1


def test_a_damaged_run_is_passed_over(donor, tmp_path):
    damaged, workdir = epath.Path(tmp_path) / "damaged", epath.Path(tmp_path) / "run"
    finish_stage(damaged, 2.0)
    [data] = (damaged / "stages/1_global/checkpoints/7/state/d").iterdir()
    data.write_bytes(data.read_bytes()[:20])
    other = epath.Path(tmp_path) / "other"
    finish_stage(other, 3.0)
    shutil.copy(donor / "stages/1_global/result.json", other / "stages/1_global")
    first, second, third = take(workdir, damaged, other, donor)
    checkpoint = "stages/1_global/checkpoints/7"
    assert first.startswith(
        f"stage 1_global is not taken over from {damaged}: checkpoint {damaged / checkpoint} is "
        f"damaged"
    )
    assert f"checkpoint {other / checkpoint} holds other weights" in second
    assert third == f"stage 1_global is taken over from {donor}"
    assert taken(workdir) == 1


def test_a_stage_that_has_begun_stays(donor, tmp_path):
    workdir = epath.Path(tmp_path)
    finish_stage(workdir, 2.0)
    (workdir / "stages/1_global/result.json").unlink()
    assert take(workdir, donor) == []
    assert not (workdir / "stages/1_global/result.json").exists()


def test_nothing_is_taken_over_where_results_depend_on_the_number_of_devices(donor, tmp_path):
    assert take(epath.Path(tmp_path), donor, batch_norm="device") == []
    assert list(tmp_path.iterdir()) == []
