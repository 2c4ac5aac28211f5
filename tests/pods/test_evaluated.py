"""Processes that would score different things score nothing."""

import json
import shutil

import pytest

from tests.pods.refusals import refused
from tests.processes import DEMO, Run


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
    return Run("eval.py", "--config=configs/demo.py", each=each)


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
