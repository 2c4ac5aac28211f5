"""Processes that would score different things score nothing."""

import json
import shutil

import numpy as np
import pytest

from agcnn_jax.data.labels import LABELS
from agcnn_jax.interop.weights import save_weights
from agcnn_jax.models.agcnn import AGCNN
from agcnn_jax.models.registry import make_backbone
from agcnn_jax.run import lineage
from tests.pods.refusals import refused
from tests.support.processes import DEMO, Run
from tests.support.small_steps import random_variables


def run_of(data_dir, workdir, seed):
    options = (*DEMO, "--config.max_steps=1", f"--config.seed={seed}")
    with Run(
        "train.py",
        *options,
        f"--config.data.dir={data_dir}",
        f"--workdir={workdir}",
        processes=1,
        devices=1,
    ) as run:
        run.succeed()
    return workdir


@pytest.fixture(scope="module")
def trained(data_dir, tmp_path_factory):
    return run_of(data_dir, tmp_path_factory.mktemp("trained") / "run", seed=0)


def evaluating(each):
    return Run("eval.py", "--config=tests/configs/demo.py", each=each)


@pytest.mark.slow
def test_other_weights(data_dir, trained, tmp_path):
    """One host has an outdated copy of the workdir."""
    other = run_of(data_dir, tmp_path / "run", seed=1)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "seed": 0}))
    with evaluating({0: (f"--workdir={trained}",), 1: (f"--workdir={other}",)}) as run:
        refused(run.finish(timeout=120), "process 1 differs from process 0 in weights in --workdir")
    assert not (trained / "eval").exists()


@pytest.mark.slow
def test_other_stages_finished(trained, tmp_path):
    other = tmp_path / "run"
    shutil.copytree(trained, other)
    (other / "stages/3_fusion/result.json").unlink()
    with evaluating({0: (f"--workdir={trained}",), 1: (f"--workdir={other}",)}) as run:
        refused(run.finish(timeout=120), "process 1 differs from process 0 in weights in --workdir")


@pytest.mark.slow
def test_another_split(trained):
    splits = {0: ("--split=test",), 1: ("--split=validation",)}
    workdir = (f"--workdir={trained}",)
    with evaluating({process: (*workdir, *split) for process, split in splits.items()}) as run:
        refused(run.finish(timeout=120), "in --split: 'validation' instead of 'test'")


@pytest.mark.slow
def test_weights_on_two_hosts(data_dir, tmp_path):
    """Converted weights are scored as on one, and one host writes the results."""
    model = AGCNN(make_backbone("resnet_small"), 14, mean=(0.5,), std=(0.25,))
    variables = {
        kind: {"global": tree["global"]} for kind, tree in random_variables(model, 56).items()
    }
    about = {
        "backbone": "resnet_small",
        "branches": ["global"],
        "channels": 1,
        "pooling": "avg",
        "classes": list(LABELS[:14]),
        "mean": [0.5],
        "std": [0.25],
        "files": [],
        "kind": "test",
        "source": "test",
        "trained_on": "nothing",
        "lineage": lineage.NOTHING.to_json(),
    }
    save_weights(tmp_path / "weights", variables, about)
    found = []
    for processes in (1, 2):
        out = tmp_path / f"out{processes}"
        with Run(
            "eval.py",
            "--config=tests/configs/demo.py",
            f"--config.data.dir={data_dir}",
            "--config.data.protocol=random",
            "--config.input_size=56",
            "--config.eval.crops=ten",
            f"--weights={tmp_path / 'weights'}",
            f"--out={out}",
            processes=processes,
        ) as run:
            run.succeed()
        found.append(np.loadtxt(out / "predictions_global.csv", str, delimiter=","))
        assert (out / "report.html").exists()
    np.testing.assert_array_equal(found[0][:, 0], found[1][:, 0])
    one, two = (rows[1:, 1:].astype(float) for rows in found)
    np.testing.assert_allclose(one, two, rtol=1e-4)
