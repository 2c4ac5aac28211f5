"""The command itself: killed and started again, on two processes, on mistakes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.support.processes import DEMO, Run, environment
from tests.support.programs import ROOT, run
from tests.support.started import TINY

COMMAND = ("-m", "agcnn_jax.experiments")
QUICK = (*DEMO, "--config.max_steps=3", "--config.data.protocol=random")


def command(*arguments):
    return [sys.executable, str(TINY), *COMMAND, *map(str, arguments)]


@pytest.mark.slow
def test_killed_and_started_again_on_one_process_and_on_two(data_dir, tmp_path):
    # In float32 two processes sum in another order than one, and may exchange two films' ranks.
    double = "--config.dtype=float64"
    options = (*QUICK, double, f"--config.data.dir={data_dir}", "--seeds=2", "--rows=max,l2")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    with Run(*COMMAND, "table3", *options, f"--workdir={whole}") as both:
        both.succeed()
    expected = json.loads((whole / "table3/table.json").read_text())
    started = subprocess.Popen(
        command("table3", *options, f"--workdir={killed}"),
        cwd=ROOT,
        env=environment(4),
        start_new_session=True,
    )
    second = killed / "runs/resnet_small-G_L_F-l2-tau0.4-seed0/stages/2_local"
    try:
        while not second.exists():
            assert started.poll() is None
            time.sleep(0.1)
    finally:
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()
    assert not (killed / "table3").exists()
    with Run(*COMMAND, "table3", *options, f"--workdir={killed}", processes=1, devices=4) as again:
        again.succeed()
    assert json.loads((killed / "table3/table.json").read_text()) == expected
    assert list(expected["backbones"]["resnet_small"]["rows"]) == ["max", "l2"]


@pytest.mark.slow
def test_all_experiments(data_dir, tmp_path):
    options = (*QUICK, f"--config.data.dir={data_dir}", "--seeds=1", f"--workdir={tmp_path}")
    done = subprocess.run(
        command("all", *options), cwd=ROOT, env=environment(1), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for name in ("table1", "table2", "table3", "control", "tau", "detail"):
        files = {path.suffix for path in (tmp_path / name).iterdir()}
        assert files == {".md", ".csv", ".json", ".png", ".pdf"}
    # One global stage serves all runs that begin with it.
    assert len(list((tmp_path / "results").iterdir())) == 19
    shared = {
        os.stat(path).st_ino
        for path in tmp_path.glob(
            "runs/*-G_L_F-*/stages/1_global/checkpoints/*/state/manifest.ocdbt"
        )
    }
    assert len(shared) == 1


MISTAKES = [
    (["table9", "--config=tests/configs/demo.py"], "'table9' is no experiment; use one of table1,"),
    (["tau", "--config=tests/configs/demo.py", "--seeds=0"], "seeds"),
    (["tau", "--config=tests/configs/demo.py", "--config.data.dir=nowhere"], "nowhere"),
]
"""Each costs the start of a program; the others below are for `make test-all`."""

OTHER_MISTAKES = [
    (["--config=tests/configs/demo.py"], "no experiment is named; use one of table1,"),
    (["tau", "tau", "--config=tests/configs/demo.py"], "unexpected argument 'tau'"),
    (["tau"], "--config is missing"),
    (["tau", "--config=tests/configs/demo.py", "--rows=0.15"], "--rows names '0.15'"),
    (
        ["tau", "--config=tests/configs/demo.py", "--config.attention.tau=0.5"],
        "--config.attention.tau has no effect on tau",
    ),
]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [*MISTAKES, *(pytest.param(*mistake, marks=pytest.mark.slow) for mistake in OTHER_MISTAKES)],
)
def test_mistakes_end_in_one_line(arguments, message, tmp_path):
    done = run(*COMMAND, *arguments, cwd=tmp_path, check=False, env=_from(tmp_path))
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert message in line
    assert not (tmp_path / "runs").exists()


def _from(folder):
    """The environment of a program that is started in another folder; it needs the configs."""
    if not (folder / "configs").exists():
        shutil.copytree(ROOT / "configs", folder / "configs")
        shutil.copytree(ROOT / "tests" / "configs", folder / "tests" / "configs")
    return {**os.environ, "PYTHONPATH": str(ROOT)}
