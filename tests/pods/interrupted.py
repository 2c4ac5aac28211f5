"""Starts runs of several processes to interrupt, and reads their workdirs."""

import json
import re

import jax
import numpy as np
from etils import epath

from agcnn_jax.run.checkpoints import StageCheckpoints
from tests.support.processes import DEMO, Run

STAGES = ("1_global", "2_local", "3_fusion")
OPTIONS = (*DEMO, "--config.epochs=2", "--config.log_every=1", "--config.peer_timeout=10")
"""Ten steps a stage, two epochs of five."""


def training(data_dir, workdir, *options, program=("train.py",), **settings):
    """Start `train.py`, or a `program` like it, in two processes of two devices.

    `settings` are arguments of `Run` that change this.
    """
    return Run(
        *program,
        *OPTIONS,
        f"--config.data.dir={data_dir}",
        f"--workdir={workdir}",
        *options,
        **settings,
    )


def entries(workdir):
    path = workdir / "metrics.jsonl"
    # The last line may be incomplete.
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def has_begun(workdir, stage):
    """Return a condition for `Run.wait_for`: the stage has logged a step."""
    return lambda: any(entry["stage"] == stage for entry in entries(workdir))


def latest(workdir, stage):
    """Return the step and the arrays of a stage's latest checkpoint."""
    with StageCheckpoints(
        epath.Path(workdir) / "stages" / stage / "checkpoints", read_only=True
    ) as checkpoints:
        step = checkpoints.latest_step()
        return step, checkpoints.restore_best(step)[0]


def same_records(workdir, other):
    """Assert that two runs logged the same metrics, each step once and in order."""

    def records(folder):
        return [
            {key: value for key, value in entry.items() if key != "images_per_second"}
            for entry in entries(folder)
        ]

    assert records(workdir) == records(other)


def same_weights(workdir, other, **tolerance):
    """Assert that the latest checkpoints of two runs are equal, by default to the last bit."""
    for stage in STAGES:
        (step, expected), (other_step, found) = latest(other, stage), latest(workdir, stage)
        assert step == other_step
        for (path, a), b in zip(
            jax.tree.leaves_with_path(expected), jax.tree.leaves(found), strict=True
        ):
            where = f"{stage}{jax.tree_util.keystr(path)}"
            np.testing.assert_allclose(b, a, err_msg=where, **(tolerance or {"rtol": 0}))


def said(stderr):
    """Return a program's own lines on stderr, without progress bars."""
    assert "Traceback" not in stderr, stderr
    assert "stack trace" not in stderr, stderr
    return [line for line in re.split("[\r\n]+", stderr) if re.match(r"\w+\.py: ", line)]


def stopped_at(stderr):
    """Return the stage and step in the one line that a stopped process prints."""
    [line] = said(stderr)
    found = re.fullmatch(
        r"train\.py: saved and stopped at step (\d+) of stage (\w+); "
        r"run the same command again to continue",
        line,
    )
    assert found, line
    return found[2], int(found[1])
