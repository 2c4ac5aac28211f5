"""Full and read-only disks: one line says so, and nothing saved is lost."""

import json
import os
import shutil

import jax
import numpy as np
import pytest
from etils import epath

from agcnn_jax.run.checkpoints import StageCheckpoints
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.storage import write_json
from agcnn_jax.training.log import MetricsLog
from tests.pods.interrupted import latest, same_records, same_weights
from tests.pods.refusals import refused, said
from tests.run.test_checkpoints import IDENTITY, save, saved
from tests.support.disks import WITH_DISK, mounted
from tests.support.processes import DEMO, Run
from tests.support.programs import run
from tests.support.started import TINY

OPTIONS = (*DEMO, "--config.max_steps=4", "--config.checkpoint_every=1")
FULL = ("No space left on device", "free some space and run the same command again")
READ_ONLY = ("Read-only file system", "make it writable and run the same command again")


@pytest.fixture
def disk(tmp_path):
    with mounted(tmp_path / "disk") as disk:
        yield disk


class TestParts:
    """Each kind of file that a run writes."""

    @pytest.mark.parametrize("words", [FULL, READ_ONLY], ids=["full", "read-only"])
    def test_checkpoints(self, disk, words, capfd):
        directory = epath.Path(disk.outside) / "stages/1_global/checkpoints"
        with StageCheckpoints(directory, IDENTITY) as checkpoints:
            save(checkpoints, 1)
            checkpoints.wait_until_finished()
            if words == FULL:
                disk.fill(leave=100_000)
            else:
                disk.forbid_writing(disk.path)
            with pytest.raises(UserError) as error:
                save(checkpoints, 2)
                checkpoints.wait_until_finished()
        assert str(error.value) == f"{directory} cannot be written: {words[0]}; {words[1]}"
        assert capfd.readouterr().err == ""
        with StageCheckpoints(directory, read_only=True) as checkpoints:
            assert list(checkpoints.all_steps()) == [1]
        if words == FULL:
            # The next start removes the incomplete one.
            assert len(list(directory.iterdir())) == 2
            disk.make_room()
        else:
            disk.allow_writing(disk.path)
        assert saved(directory) == 1
        assert [path.name for path in directory.iterdir()] == ["1"]
        with StageCheckpoints(directory, IDENTITY) as checkpoints:
            save(checkpoints, 2)
        assert saved(directory) == 2

    @pytest.mark.parametrize("words", [FULL, READ_ONLY], ids=["full", "read-only"])
    def test_the_log(self, disk, words):
        workdir = epath.Path(disk.outside) / "run"
        log = MetricsLog(workdir, "1_global", 0)
        log.write(1, loss=0.5)
        if words == FULL:
            disk.fill()
        else:
            disk.forbid_writing(disk.path)
        with pytest.raises(UserError) as error:
            for step in range(2, 10_000):
                log.write(step, loss=0.5)
        assert str(error.value) == (
            f"{workdir}/metrics.jsonl cannot be written: {words[0]}; {words[1]}"
        )
        if words == FULL:
            disk.make_room()
        else:
            disk.allow_writing(disk.path)
        log = MetricsLog(workdir, "1_global", 1)
        log.write(2, loss=0.25)
        log.close()
        lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        assert [entry["step"] for entry in lines] == [1, 2]

    def test_the_result_of_a_stage(self, disk):
        path = epath.Path(disk.outside) / "result.json"
        write_json(path, {"best_step": 1})
        disk.fill()
        with pytest.raises(UserError) as error:
            write_json(path, {"best_step": 2})
        assert str(error.value) == f"{path} cannot be written: {FULL[0]}; {FULL[1]}"
        assert json.loads(path.read_text()) == {"best_step": 1}
        assert {path.name for path in disk.outside.iterdir()} == {"filler", "result.json"}

    @pytest.mark.slow
    @pytest.mark.parametrize("words", [FULL, READ_ONLY], ids=["full", "read-only"])
    def test_tables(self, disk, words):
        command = (*WITH_DISK, "-c", WRITE_TABLES, disk.path / "run/eval/test")
        environment = {**os.environ, **disk.variables}
        run(*command, env=environment)
        folder = disk.outside / "run/eval/test"
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert "auc.json" in before
        if words == FULL:
            # Enough room for the first of them.
            disk.fill(leave=20_000)
        else:
            disk.forbid_writing(disk.path)
        done = run(*command, env=environment, check=False)
        assert done.returncode == 2
        [line] = done.stderr.splitlines()
        assert f"run/eval/test: the results cannot be written: {words[0]}" in line
        assert words[1] in line
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        assert os.listdir(folder.parent) == ["test"]


WRITE_TABLES = """
import sys
from agcnn_jax.runtime import errors
from tests.evaluation.test_write import given, write
errors.run(lambda: write(sys.argv[1], given()) and None)
"""


@pytest.fixture(scope="module")
def reference(data_dir, tmp_path_factory):
    """The workdir of a run of one process on a disk with room."""
    workdir = tmp_path_factory.mktemp("reference") / "run"
    with training(data_dir, workdir, processes=1) as run:
        run.succeed()
    return workdir


def training(data_dir, workdir, *options, disks=None, **settings):
    """Start `train.py`; `disks` gives each process its disk."""
    return Run(
        *WITH_DISK,
        TINY,
        "train.py",
        *OPTIONS,
        f"--config.data.dir={data_dir}",
        f"--workdir={workdir}",
        *options,
        variables={process: disk.variables for process, disk in (disks or {}).items()},
        **settings,
    )


def steps(workdir, stage):
    """Return the steps of a stage's checkpoints."""
    folder = workdir / "stages" / stage / "checkpoints"
    return {int(path.name) for path in folder.glob("*") if path.name.isdigit()}


def restorable(workdir, stage):
    """Read the latest checkpoint completely and return its step."""
    step, state = latest(workdir, stage)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    return step


@pytest.mark.slow
def test_a_disk_that_fills_up_while_training(data_dir, disk, reference):
    inside, outside = disk.path / "run", disk.outside / "run"
    with training(data_dir, inside, processes=1, disks={0: disk}) as run:
        run.wait_for(lambda: steps(outside, "1_global"))
        disk.fill()
        ends = run.finish(timeout=60)
    refused(ends, str(inside), *FULL)
    assert len(said(ends[0][2])) == 1
    step = restorable(outside, "1_global")
    assert step in range(1, 5)

    # While the disk is full, each start says so again and loses nothing.
    with training(data_dir, inside, processes=1, disks={0: disk}) as run:
        refused(run.finish(timeout=120), str(inside), *FULL)
    assert restorable(outside, "1_global") >= step

    disk.make_room()
    with training(data_dir, inside, processes=1, disks={0: disk}) as run:
        run.succeed()
    same_weights(outside, reference)
    same_records(outside, reference)
    assert not list(outside.rglob("*orbax-checkpoint-tmp*"))
    assert not list(outside.rglob("*.tmp"))


@pytest.mark.slow
def test_a_disk_that_fills_up_under_two_processes(data_dir, disk):
    inside, outside = disk.path / "run", disk.outside / "run"
    with training(data_dir, inside, disks={0: disk, 1: disk}) as run:
        run.wait_for(lambda: steps(outside, "1_global"), timeout=200)
        disk.fill()
        refused(run.finish(timeout=60), str(inside), *FULL)
    assert restorable(outside, "1_global") in range(1, 5)


@pytest.mark.slow
@pytest.mark.parametrize("process", [0, 1])
def test_a_workdir_that_becomes_read_only_for_one_of_two(data_dir, disk, tmp_path, process):
    workdir = tmp_path / "run"
    with training(data_dir, workdir, disks={process: disk}) as run:
        run.wait_for(lambda: steps(workdir, "1_global"), timeout=200)
        disk.forbid_writing(workdir)
        # Neither process waits for the other's part of the checkpoint.
        refused(run.finish(timeout=60), str(workdir), *READ_ONLY)
    assert restorable(workdir, "1_global") in range(1, 5)


@pytest.mark.slow
def test_a_workdir_that_becomes_read_only_while_training(data_dir, disk, reference):
    shutil.copytree(reference, disk.outside / "run")
    inside, outside = disk.path / "run", disk.outside / "run"
    for stage in ("2_local", "3_fusion"):
        shutil.rmtree(outside / "stages" / stage)
    with training(data_dir, inside, processes=1, disks={0: disk}) as run:
        run.wait_for(lambda: steps(outside, "2_local"))
        disk.forbid_writing(inside)
        ends = run.finish(timeout=60)
    refused(ends, str(inside), *READ_ONLY)
    assert len(said(ends[0][2])) == 1
    assert restorable(outside, "1_global") == 4
    assert restorable(outside, "2_local") in range(1, 5)
    disk.allow_writing(inside)
    with training(data_dir, inside, processes=1, disks={0: disk}) as run:
        run.succeed()
    same_weights(outside, reference)
    same_records(outside, reference)


@pytest.mark.slow
def test_two_processes_resume_in_a_read_only_workdir(data_dir, disk, reference):
    inside, outside = disk.path / "run", disk.outside / "run"
    shutil.copytree(reference, outside)
    shutil.rmtree(outside / "stages" / "3_fusion")
    disk.forbid_writing(inside)
    with training(data_dir, inside, disks={0: disk, 1: disk}) as run:
        refused(run.finish(timeout=120), str(inside), READ_ONLY[0])


@pytest.mark.slow
def test_a_read_only_workdir(data_dir, disk):
    (disk.outside / "runs").mkdir()
    disk.forbid_writing(disk.path / "runs")
    workdir = disk.path / "runs/a"
    with training(data_dir, workdir, processes=1, devices=1, disks={0: disk}) as run:
        ends = run.finish(timeout=120)
    refused(ends, str(workdir), READ_ONLY[0], "make it writable, or choose another --workdir")
    assert len(said(ends[0][2])) == 1
    assert list((disk.outside / "runs").iterdir()) == []
