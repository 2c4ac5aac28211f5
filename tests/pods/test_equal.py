"""The result does not depend on how many devices and processes share a batch."""

import json
import shutil

import jax
import numpy as np
import pytest
from etils import epath

from agcnn_jax.config.saved import read_config
from agcnn_jax.config.strategies import stages
from agcnn_jax.data.labels import MISSING
from agcnn_jax.models.agcnn import select_branches
from agcnn_jax.run.run import open_run
from agcnn_jax.run.stage_results import read_result
from agcnn_jax.training.start import initial_variables
from tests.pods.interrupted import STAGES, entries, latest
from tests.support.missing import copy_with_missing
from tests.support.processes import DEMO, Run

STEPS = 20

# At the demo's learning rate, a rounding error grows sevenfold per step, since it may switch the
# gradient of an activation near zero on or off. At this learning rate it does not grow.
OPTIONS = ("--config.learning_rate=0.0001", "--config.log_every=1", "--config.checkpoint_every=99")

TOLERANCE = {
    # In float32, rounding may move a crop by a pixel, which shows in the largest differences.
    "float32": {"loss": 1e-4, "params": 2e-5, "batch_stats": 1e-3, "auc": 0.02},
    "float64": {"loss": 1e-9, "params": 1e-9, "batch_stats": 1e-9, "auc": 0.0},
}
"""Tolerances of each number after 20 steps; also relative for statistics. 0: equal tables."""

MEDIAN = {
    "float32": {"params": 2e-6, "batch_stats": 2e-4},
    "float64": {"params": 1e-10, "batch_stats": 1e-10},
}
"""Tolerances of the median, over the arrays, of each array's largest difference."""


@pytest.fixture(scope="module")
def runs(data_dir, tmp_path_factory):
    """`runs(dtype, processes, devices, steps)` trains and evaluates; it returns the workdir.

    With `missing`, the data lack labels; such a run is only trained.
    """
    folder = tmp_path_factory.mktemp("runs")
    made = {}

    def make(dtype, processes, devices, steps, missing=False):
        key = (dtype, processes, devices, steps, missing)
        if key in made:
            return made[key]
        data = data_dir
        if missing:
            data = folder / "missing"
            if not data.exists():
                copy_with_missing(data_dir, data, hide)
        workdir = folder / "_".join(map(str, key)) / "run"
        shape = {"processes": processes, "devices": devices}
        common = (*DEMO, *OPTIONS, f"--config.data.dir={data}", f"--config.dtype={dtype}")
        # 85 images make 5 batches per epoch.
        length = (f"--config.max_steps={steps}", "--config.epochs=4")
        with Run("train.py", *common, *length, f"--workdir={workdir}", **shape) as run:
            run.succeed()
        made[key] = workdir
        if missing:
            return workdir
        scoring = ("eval.py", "--config=tests/configs/demo.py", f"--workdir={workdir}")
        with Run(*scoring, **shape) as run:
            tables = run.succeed()
        # Only process 0 prints.
        assert "Mean" in tables[0]
        assert not any(tables[1:])
        return workdir

    return make


def hide(labels):
    """Hide 0 to 95 % of the labels of a film, and all of every fiftieth film's."""
    rng = np.random.default_rng(0)
    shares = rng.permutation(np.linspace(0, 0.95, len(labels)))[:, None]
    hidden = np.where(rng.random(labels.shape) < shares, MISSING, labels)
    hidden[::50] = MISSING
    return hidden


def losses(workdir, stage):
    return [e["loss"] for e in entries(workdir) if e["stage"] == stage and "loss" in e]


def table(workdir):
    return json.loads((workdir / "eval/test/auc.json").read_text())


def compare(ours, theirs, dtype, steps):
    compare_training(ours, theirs, dtype, steps)
    tolerance = TOLERANCE[dtype]
    if tolerance["auc"] == 0:
        # Weights that differ in their last digits have other digests.
        assert table(ours) | {"weights": None} == table(theirs) | {"weights": None}
    for (name, a), (_, b) in zip(aucs(ours), aucs(theirs), strict=True):
        assert a == pytest.approx(b, abs=tolerance["auc"]), name


def compare_training(ours, theirs, dtype, steps):
    tolerance = TOLERANCE[dtype]
    for stage in STAGES:
        first, second = losses(ours, stage), losses(theirs, stage)
        assert len(first) == steps
        np.testing.assert_allclose(first, second, rtol=0, atol=tolerance["loss"], err_msg=stage)
        (step, state), (other_step, other_state) = latest(ours, stage), latest(theirs, stage)
        assert step == other_step == steps
        for kind in ("params", "batch_stats"):
            differences = []
            for name, a, b in arrays(state["variables"], other_state["variables"], kind):
                assert a.dtype == b.dtype == dtype, name
                relative = tolerance[kind] if kind == "batch_stats" else 0
                np.testing.assert_allclose(
                    a, b, rtol=relative, atol=tolerance[kind], err_msg=f"{stage} {name}"
                )
                differences.append(np.abs(a - b).max())
            assert not differences or np.median(differences) < MEDIAN[dtype][kind]


def arrays(ours, theirs, kind):
    """Yield the names and both arrays of each pair; the fusion branch has no statistics."""
    for (path, a), b in zip(
        jax.tree.leaves_with_path(ours.get(kind, {})),
        jax.tree.leaves(theirs.get(kind, {})),
        strict=True,
    ):
        yield f"{kind}{jax.tree_util.keystr(path)}", np.asarray(a), np.asarray(b)


def aucs(workdir):
    """Return each AUC of a table by branch and finding."""
    return [
        ((branch, finding), auc)
        for branch, scores in table(workdir)["branches"].items()
        for finding, auc in scores["auc"].items()
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "devices"), [(1, 2), (1, 4), (1, 8), (2, 2)])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_twenty_steps_of_every_stage(runs, dtype, processes, devices):
    one = runs(dtype, 1, 1, STEPS)
    compare(one, runs(dtype, processes, devices, STEPS), dtype, STEPS)


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "devices"), [(1, 8), (2, 2)])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_twenty_steps_with_missing_labels(runs, dtype, processes, devices):
    one = runs(dtype, 1, 1, STEPS, missing=True)
    several = runs(dtype, processes, devices, STEPS, missing=True)
    data, seen = (json.loads((one / name).read_text()) for name in ("data.json", "lineage.json"))
    assert data["unlabelled_images"] > 0
    assert sum(map(len, seen["seen"].values())) == data["train"]
    compare_training(one, several, dtype, STEPS)
    # And not the losses of all labels.
    whole = runs(dtype, 1, 1, STEPS)
    assert np.abs(np.subtract(*(losses(run, STAGES[0]) for run in (one, whole)))).max() > 0.01
    for stage in STAGES:
        first, second = (read_result(epath.Path(run) / "stages" / stage) for run in (one, several))
        for branch, values in first["val_auc"].items():
            tolerance = TOLERANCE[dtype]["auc"]
            assert values == pytest.approx(second["val_auc"][branch], abs=tolerance), branch


@pytest.mark.slow
def test_twenty_steps_change_more_than_the_tolerance(runs):
    """The comparison above can fail."""
    workdir = epath.Path(runs("float32", 1, 1, STEPS))
    config = read_config(workdir)
    start = initial_variables(open_run(config, workdir), {})
    for stage in stages(config.strategy):
        _, state = latest(workdir, stage.name)
        begun = select_branches(start, stage.branches)
        for kind in ("params", "batch_stats"):
            changes = [np.abs(a - b).max() for _, a, b in arrays(state["variables"], begun, kind)]
            if changes:
                assert max(changes) > 10 * TOLERANCE["float32"][kind]
                assert np.median(changes) > 5 * MEDIAN["float32"][kind]


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "devices"), [(1, 2), (1, 4), (1, 8), (2, 2)])
def test_one_run_scored_by_any_number_of_devices(runs, tmp_path, processes, devices):
    workdir = tmp_path / "run"
    shutil.copytree(runs("float32", 1, 1, STEPS), workdir)
    files = [workdir / "eval/test" / name for name in ("auc.json", "localisation.json")]
    expected = [file.read_bytes() for file in files]
    shutil.rmtree(workdir / "eval")
    shape = {"processes": processes, "devices": devices}
    with Run("eval.py", "--config=tests/configs/demo.py", f"--workdir={workdir}", **shape) as run:
        run.succeed()
    assert [file.read_bytes() for file in files] == expected


@pytest.mark.slow
def test_two_processes_do_what_one_device_does(runs):
    compare(runs("float64", 1, 1, 3), runs("float64", 2, 2, 3), "float64", 3)
