"""A whole run with its data and workdir in a bucket."""

import json
import os
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from etils import epath

from agcnn_jax.run.checkpoints import StageCheckpoints
from tests.pods.refusals import refused, said
from tests.support.processes import Run
from tests.support.programs import ROOT, run
from tests.support.started import TINY
from tests.training.test_loop import SMALL

OPTIONS = (*SMALL, "--config.max_steps=6", "--config.checkpoint_every=2")
WORKDIR = "gs://bucket/run"
STAGES = ("1_global", "2_local", "3_fusion")


def train_command(data_dir, workdir):
    return ["train.py", *OPTIONS, f"--config.data.dir={data_dir}", f"--workdir={workdir}"]


def environment():
    # One device, whatever the flags of the test runner are.
    return {**os.environ, "XLA_FLAGS": ""}


def evaluate(workdir):
    run("eval.py", "--config=tests/configs/demo.py", f"--workdir={workdir}", env=environment())


def losses(content):
    """Return the logged entries without those that depend on the clock."""
    entries = [json.loads(line) for line in content.decode().splitlines()]
    return [{k: v for k, v in e.items() if k != "images_per_second"} for e in entries]


def weights(workdir, stage):
    with StageCheckpoints(
        epath.Path(workdir) / "stages" / stage / "checkpoints", read_only=True
    ) as checkpoints:
        return checkpoints.restore_best(checkpoints.latest_step())[0]


def until_killed(command, condition):
    """Run a program until the condition holds, then kill it."""
    process = subprocess.Popen(
        [sys.executable, TINY, *command],
        cwd=ROOT,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not condition():
        time.sleep(0.02)
    process.kill()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == -9, stderr


@pytest.mark.slow
def test_a_run_in_a_bucket_ends_like_one_on_a_disk(
    store, data_in_bucket, data_dir, cache, tmp_path
):
    local, remote = tmp_path / "run", "gs://bucket/run"
    run(*train_command(data_dir, local), env=environment())
    command = train_command(data_in_bucket, remote)
    saved = "run/stages/2_local/checkpoints/2/commit_success.txt"
    until_killed(command, lambda: saved in store.names("bucket"))
    logged = losses(store.read("bucket", "run/metrics.jsonl"))
    assert [e["step"] for e in logged if e["stage"] == "2_local"][:1] == [2]
    assert "run/stages/2_local/result.json" not in store.names("bucket")

    done = run(*command, env=environment())
    assert f"training in {remote} is complete" in done.stdout
    expected = (local / "metrics.jsonl").read_bytes()
    assert losses(store.read("bucket", "run/metrics.jsonl")) == losses(expected)
    for stage in STAGES:
        result = f"stages/{stage}/result.json"
        assert store.read("bucket", f"run/{result}") == (local / result).read_bytes()
        assert store.names("bucket", f"run/events/{stage}/")
        ours, theirs = weights(remote, stage), weights(local, stage)
        for (path, a), b in zip(
            jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs), strict=True
        ):
            np.testing.assert_array_equal(a, b, err_msg=f"{stage}{jax.tree_util.keystr(path)}")
    config = json.loads(store.read("bucket", "run/config.json"))
    assert config["data"]["dir"] == data_in_bucket
    # No folder is named after the bucket.
    assert not [path for path in ROOT.iterdir() if path.name.startswith("gs:")]

    before = dict(store.objects["bucket"])
    assert "nothing left to do" in run(*command, env=environment()).stdout
    assert store.objects["bucket"] == before

    evaluate(local)
    evaluate(remote)
    scores = "eval/test/auc.json"
    assert store.read("bucket", f"run/{scores}") == (local / scores).read_bytes()
    names = {path.name for path in (local / "eval/test").iterdir()}
    assert {name.rsplit("/", 1)[1] for name in store.names("bucket", "run/eval/")} == names


@pytest.mark.slow
def test_a_bucket_that_refuses_further_writes(store, data_dir):
    command = train_command(data_dir, WORKDIR)
    saved = "run/stages/1_global/checkpoints/2/commit_success.txt"
    with Run(*command, processes=1, devices=1) as training:
        training.wait_for(lambda: saved in store.names("bucket"), timeout=200)
        store.forbidden.add("bucket")
        ends = training.finish(timeout=100)
    refused(ends, "gs://bucket/run/", "Forbidden", "run the same command again")
    assert len(said(ends[0][2])) == 1
    store.forbidden.clear()
    assert losses(store.read("bucket", "run/metrics.jsonl"))[0]["step"] == 2
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(weights(WORKDIR, "1_global")))


@pytest.mark.parametrize("program", ["train.py", "eval.py"])
def test_a_workdir_where_no_checkpoint_can_lie(data_dir, program):
    options = (f"--config.data.dir={data_dir}", "--workdir=s3://bucket/run")
    done = run(program, *SMALL, *options, env=environment(), check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "--workdir s3://bucket/run: checkpoints can only lie on a disk or in gs://" in line
