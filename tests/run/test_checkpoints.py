"""Checkpoints of a stage: which are kept, and what happens to torn and damaged ones."""

import os
import shutil
import time

import jax
import numpy as np
import pytest
from etils import epath

from agcnn_jax.config.strategies import Stage
from agcnn_jax.run.checkpoints import StageCheckpoints
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.training.stage import best_scores, describe_result, validation_table
from tests.support.programs import run

IDENTITY = {"labels": ["Mass"]}


class Position:
    """Stands in for the iterator of the pipeline."""

    def __init__(self, step):
        self.step = step

    def get_state(self):
        return {"next_index": self.step}

    def set_state(self, state):
        self.step = state["next_index"]


def state_of(step):
    # Random numbers, which do not compress.
    numbers = np.random.default_rng(step).random((30, 100, 100), np.float32)
    return {"weights": {str(index): array for index, array in enumerate(numbers)}}


def save(checkpoints, step, score=None):
    checkpoints.save(step, state_of(step), Position(step))
    if score is not None:
        checkpoints.add_score(step, score, 3)


def restore(directory):
    """Load the latest checkpoint: its step, its state and its position."""
    with StageCheckpoints(directory, IDENTITY) as checkpoints:
        step, position = checkpoints.latest_step(), Position(0)
        state = checkpoints.restore(step, state_of(0), position)
    return step, state, position


def saved(directory):
    """Check the content of the latest checkpoint and return its step."""
    step, state, position = restore(directory)
    jax.tree.map(np.testing.assert_array_equal, state, state_of(step))
    assert position.step == step
    return step


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """A stage whose best checkpoint is 1 and whose latest is 3."""
    stage = epath.Path(tmp_path_factory.mktemp("run") / "1_global")
    with StageCheckpoints(stage / "checkpoints", IDENTITY) as checkpoints:
        for step, score in ((1, 0.9), (2, 0.5), (3, 0.7)):
            save(checkpoints, step, score)
    return stage


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_the_latest_and_the_best_are_kept(stage):
    assert names(stage / "checkpoints") == ["1", "3"]
    assert saved(stage / "checkpoints") == 3
    with StageCheckpoints(stage / "checkpoints", IDENTITY, read_only=True) as checkpoints:
        best, identity = checkpoints.restore_best()
        jax.tree.map(np.testing.assert_array_equal, best, state_of(1))
        assert identity == IDENTITY
        # `result.json` may name another step.
        named, _ = checkpoints.restore_best(3)
    jax.tree.map(np.testing.assert_array_equal, named, state_of(3))


@pytest.mark.parametrize(
    ("scores", "best", "said"),
    [
        ((0.5, 0.9, 0.9), 2, "best checkpoint at step 2, mean validation AUC 0.9000 over 3 of 14"),
        ((None, None, None), 3, "no finding has a validation AUC; the last checkpoint is used"),
    ],
)
def test_the_best_is_described(tmp_path, scores, best, said):
    """The first of equal checkpoints is the best; without any AUC, the last."""
    with StageCheckpoints(epath.Path(tmp_path) / "checkpoints", IDENTITY) as checkpoints:
        for step, score in enumerate(scores, start=1):
            state, findings = {"weights": np.zeros(2)}, 0 if score is None else 3
            checkpoints.save(step, state, Position(step))
            checkpoints.add_score(step, score, findings)
        result = best_scores(checkpoints)
    assert (result["best_step"], result["best_val_auc_mean"]) == (best, scores[best - 1])
    assert said in describe_result(Stage(1, ("global",)), result, 14)


FILES = ("identity/metadata", "state/_METADATA", "state/manifest.ocdbt", "state/d/*")


def damage(path, how):
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "flipped":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + b"\xff" * 8 + content[middle + 8 :])
    else:
        path.write_bytes(content[: len(content) // 2] if how == "cut" else b"")


@pytest.mark.parametrize("how", ["cut", "empty", "flipped", "missing"])
@pytest.mark.parametrize(
    ("step", "name"),
    [*((1, name) for name in FILES), *((3, name) for name in (*FILES, "batches/metadata"))],
)
def test_a_damaged_file_is_one_line(stage, tmp_path, step, name, how):
    copy = epath.Path(tmp_path / "1_global")
    shutil.copytree(stage, copy)
    for later in ("2_local", "3_fusion"):
        (tmp_path / later).mkdir()
    directory = copy / "checkpoints"
    [path] = (directory / str(step)).glob(name)
    damage(path, how)
    with pytest.raises(UserError) as error:
        if step == 3:
            restore(directory)
        else:
            with StageCheckpoints(directory, IDENTITY, read_only=True) as checkpoints:
                checkpoints.restore_best()
    text = str(error.value)
    assert text.startswith(f"checkpoint {directory}/{step} is damaged or incomplete (")
    # The later stages were trained from it.
    assert text.endswith(
        f"); delete {copy} and, beside it, 2_local and 3_fusion and run the train.py command again"
    )
    # The reason without the details of TensorStore.
    assert "()" not in text and "tensorstore_spec" not in text and len(text) < 900


@pytest.mark.parametrize("how", ["cut", "empty", "flipped"])
@pytest.mark.parametrize("step", ["1", "3"])
def test_damaged_scores_are_one_line(stage, tmp_path, step, how):
    copy = epath.Path(tmp_path / "1_global")
    shutil.copytree(stage, copy)
    damage(copy / "checkpoints" / step / "metrics/metrics", how)
    expected = (
        rf"^a checkpoint in {copy}/checkpoints is damaged or incomplete \(.+\); delete {copy}"
    )
    with pytest.raises(UserError, match=expected):
        restore(copy / "checkpoints")
    with (
        pytest.raises(UserError, match=expected),
        StageCheckpoints(copy / "checkpoints", IDENTITY, read_only=True) as checkpoints,
    ):
        checkpoints.restore_best()


def test_a_half_deleted_old_checkpoint_is_ignored(stage, tmp_path):
    copy = epath.Path(tmp_path / "1_global")
    shutil.copytree(stage, copy)
    directory = copy / "checkpoints"
    for name in ("identity", "metrics/metrics", "commit_success.txt"):
        shutil.copytree(directory / "3", directory / "2")
        path = directory / "2" / name
        path.rmtree() if path.is_dir() else path.unlink()
        with StageCheckpoints(directory, read_only=True) as checkpoints:
            assert (checkpoints.latest_step(), checkpoints.best_step()) == (3, 1)
        shutil.rmtree(directory / "2")
    shutil.copytree(directory / "3/state", directory / "2/state")
    assert saved(directory) == 3
    with StageCheckpoints(directory, IDENTITY) as checkpoints:
        save(checkpoints, 4, 0.6)
    assert names(directory) == ["1", "4"]


def test_torn_checkpoints_are_deleted_before_a_folder_is_closed(stage, tmp_path, monkeypatch):
    directory = epath.Path(tmp_path / "checkpoints")
    shutil.copytree(stage / "checkpoints", directory)
    shutil.copytree(directory / "3", directory / "4.orbax-checkpoint-tmp")
    delete = type(directory).rmtree

    def slowly(path, **options):
        time.sleep(0.1)
        delete(path, **options)

    monkeypatch.setattr(type(directory), "rmtree", slowly)
    with StageCheckpoints(directory, IDENTITY):
        pass
    assert names(directory) == ["1", "3"]


KILLED = """
import os, pathlib, shutil, signal, sys, time
from etils import epath
from agcnn_jax.run.checkpoints import StageCheckpoints
from tests.run.test_checkpoints import IDENTITY, save

folder = pathlib.Path(sys.argv[1])
directory = folder / "checkpoints"

def torn():
    return directory.exists() and any("tmp" in name for name in os.listdir(directory))

for kill in range(8):
    child = os.fork()  # before JAX starts its threads
    if child == 0:
        with StageCheckpoints(epath.Path(directory), IDENTITY) as checkpoints:
            first = (checkpoints.latest_step() or 0) + 1
            for step in range(first, first + 1000):
                save(checkpoints, step, 1 / step)
        os._exit(1)
    start = set(os.listdir(directory)) if directory.exists() else set()
    while not torn() or set(os.listdir(directory)) == start:
        time.sleep(0.001)
    time.sleep(0.02 * kill)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    shutil.copytree(directory, folder / f"killed{kill}/checkpoints")
"""


def test_a_killed_save_is_never_loaded_and_is_cleaned_up(tmp_path):
    run("-c", KILLED, tmp_path, env={**os.environ, "XLA_FLAGS": ""}, timeout=120)
    snapshots = sorted(tmp_path.glob("killed*/checkpoints"))
    assert len(snapshots) == 8
    torn = 0
    for directory in map(epath.Path, snapshots):
        before = names(directory)
        torn += any("tmp" in name for name in before)
        finished = [int(name) for name in before if name.isdigit()]
        last = max(finished, default=0)
        if finished:
            assert saved(directory) == last
        with StageCheckpoints(directory, IDENTITY) as checkpoints:
            assert (checkpoints.latest_step() or 0) == last
            save(checkpoints, last + 1)
        assert saved(directory) == last + 1
        assert not [name for name in names(directory) if not name.isdigit()]
    assert torn >= 2


def test_the_table_of_finished_stages():
    """A mean leaves out what does not exist; a branch that was trained again has its last AUCs."""
    first = {"val_auc": {"global": {"Mass": 0.75, "Hernia": None}}}
    again = {
        "val_auc": {"global": {"Mass": 0.8, "Hernia": 0.5}, "fusion": {"Mass": 1.0, "Hernia": None}}
    }
    assert validation_table([first], ("Mass", "Hernia")).splitlines() == [
        "AUC, validation images  global",
        "Mass                     0.750",
        "Hernia                       -",
        "mean                     0.750",
    ]
    assert validation_table([first, again], ("Mass", "Hernia")).splitlines() == [
        "AUC, validation images  global  fusion",
        "Mass                     0.800   1.000",
        "Hernia                   0.500       -",
        "mean                     0.650   1.000",
    ]
    # Where labels are missing, the mean is over the findings that select checkpoints.
    assert validation_table([first, again], ("Mass",)).splitlines()[1:] == [
        "Mass                     0.800   1.000",
        "Hernia                   0.500       -",
        "mean of 1                0.800   1.000",
    ]


def test_the_aucs_of_findings_are_kept_with_the_best(tmp_path):
    with StageCheckpoints(epath.Path(tmp_path) / "checkpoints", IDENTITY) as checkpoints:
        for step, score in enumerate((0.7, 0.6), start=1):
            checkpoints.save(step, {"weights": np.zeros(2)}, Position(step))
            checkpoints.add_score(step, score, 1, {"global": {"Mass": score, "Hernia": None}})
    with StageCheckpoints(epath.Path(tmp_path) / "checkpoints", IDENTITY) as checkpoints:
        assert best_scores(checkpoints)["val_auc"] == {"global": {"Mass": 0.7, "Hernia": None}}
