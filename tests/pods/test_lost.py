"""When a process is lost, never comes, or stops with an error, the others exit too."""

import os
import signal
import socket
import time

import pytest

from tests.pods.interrupted import (
    entries,
    has_begun,
    said,
    same_records,
    same_weights,
    training,
)
from tests.support.processes import Run, environment, free_port
from tests.support.programs import ROOT, run


def kill_worker(run, process):
    os.kill(run.worker(process), signal.SIGKILL)


def kill_parent(run, process):
    """The worker must end too."""
    run[process].kill()


def hang(run, process):
    os.kill(run.worker(process), signal.SIGSTOP)


def lose(run, workdir, stage, process, how):
    """Lose a process in a stage; check how the other one ends."""
    run.wait_for(has_begun(workdir, stage), timeout=300)
    pid = run.worker(process)
    how(run, process)
    begin = time.monotonic()
    other = run[1 - process]
    _, stderr = other.communicate(timeout=100)
    # config.peer_timeout, plus time for JAX to notice.
    assert time.monotonic() - begin < 10 + 20
    assert other.returncode == 75, stderr
    *waiting, line = said(stderr)
    assert f"process {process} on {socket.gethostname()} of this run was lost" in line
    assert all("waiting 10 s to know" in earlier for earlier in waiting)
    return pid


@pytest.mark.slow
@pytest.mark.parametrize("process", [0, 1])
def test_the_others_exit_when_a_process_is_killed(data_dir, runs, process):
    workdir = runs / f"killed_{process}"
    with training(data_dir, workdir, "--config.checkpoint_every=2") as run:
        lose(run, workdir, "1_global", process, kill_worker)
        _, _, stderr = run.finish(timeout=30)[process]
    assert run[process].returncode == 128 + signal.SIGKILL
    assert said(stderr) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("process", "stage", "how"),
    [
        (0, "2_local", kill_worker),
        (1, "1_global", kill_parent),
        (0, "3_fusion", hang),
        (1, "2_local", hang),
    ],
    ids=["kill-0", "kill-parent-1", "hang-0", "hang-1"],
)
def test_a_run_that_lost_a_process_ends_like_an_uninterrupted_one(
    data_dir, runs, uninterrupted, process, stage, how, request
):
    workdir = runs / request.node.callspec.id
    with training(data_dir, workdir, "--config.checkpoint_every=2") as run:
        worker = lose(run, workdir, stage, process, how)
        if how is hang:
            # When it continues, it finds that the others have gone.
            os.kill(worker, signal.SIGCONT)
        status, _, stderr = run.finish(timeout=60)[process]
    if how is hang:
        assert status == 75, stderr
        assert said(stderr)
    assert not os.path.exists(f"/proc/{worker}")
    with training(data_dir, workdir, "--config.checkpoint_every=2") as run:
        run.succeed()
    same_records(workdir, uninterrupted)
    same_weights(workdir, uninterrupted)


def start(*options):
    """Run `train.py` as one process of several."""
    begin = time.monotonic()
    done = run(
        "train.py",
        "--config=tests/configs/demo.py",
        *options,
        env=environment(1),
        check=False,
        timeout=120,
    )
    return done.returncode, said(done.stderr), time.monotonic() - begin


@pytest.mark.slow
@pytest.mark.parametrize("process", [0, 1])
def test_the_others_never_come(tmp_path, process):
    address = f"localhost:{free_port()}"
    status, lines, seconds = start(
        f"--coordinator_address={address}",
        "--num_processes=2",
        f"--process_id={process}",
        "--start_timeout=5",
        f"--workdir={tmp_path}/run",
    )
    assert status == 75
    [line] = lines
    assert address in line
    assert "5 s" in line
    assert seconds > 5  # and less than the 120 of `start`, on a busy machine too
    assert not (tmp_path / "run").exists()


def test_another_program_holds_the_port(tmp_path):
    with socket.create_server(("localhost", 0)) as listener:
        address = f"localhost:{listener.getsockname()[1]}"
        status, lines, seconds = start(
            f"--coordinator_address={address}",
            "--num_processes=2",
            "--process_id=0",
            "--start_timeout=3",
            f"--workdir={tmp_path}/run",
        )
    assert status == 75
    [line] = lines
    assert address in line
    assert "in use" in line
    assert seconds > 3


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ("--coordinator_address=localhost:8476 --num_processes=2", "--process_id"),
        ("--coordinator_address=localhost:8476 --process_id=0", "--num_processes"),
        ("--num_processes=2 --process_id=0", "--coordinator_address"),
        ("--coordinator_address=host --num_processes=2 --process_id=0", "'host'"),
        ("--coordinator_address=host:http --num_processes=2 --process_id=0", "'host:http'"),
        ("--coordinator_address=host:70000 --num_processes=2 --process_id=0", "'host:70000'"),
        ("--coordinator_address=host:1 --num_processes=2 --process_id=2", "--process_id is 2"),
        ("--coordinator_address=host:1 --num_processes=2 --process_id=-1", "--process_id is -1"),
        ("--coordinator_address=host:1 --num_processes=0 --process_id=0", "--num_processes is 0"),
        ("--coordinator_address=host:1 --num_processes=x --process_id=0", "--num_processes=x"),
        ("--start_timeout=0", "--start_timeout"),
        (
            "--coordinator_address=host:1 --num_processes=1 --process_id=0 --config.peer_timeout=0",
            "config.peer_timeout is 0",
        ),
        ("--config.peer_timeout=0", "config.peer_timeout is 0"),
    ],
)
def test_flags_that_cannot_be_used(tmp_path, options, word):
    status, lines, _ = start(*options.split(), f"--workdir={tmp_path}/run")
    assert status == 2
    [line] = lines
    assert word in line
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_an_error_of_one_process_stops_all(data_dir, runs):
    workdir = runs / "mistaken"
    with training(data_dir, workdir, each={1: ["--config.backbone=vgg16"]}) as run:
        ends = run.finish(timeout=100)
    for status, _, stderr in ends:
        assert status == 2, stderr
        [line] = said(stderr)
        assert "process 1" in line
        assert "vgg16" in line
    assert entries(workdir) == []


class TestOneProcessStops:
    """A process that stops tells the others, wherever they are: here in `sleep`."""

    PROGRAM = """
import time
from agcnn_jax.config import command_line
from agcnn_jax.runtime.errors import UserError

def main():
    import jax
    print("begun", flush=True)
    if jax.process_index() == {process}:
        raise {error}
    time.sleep(100)

command_line.define_config_flags()
command_line.run(main)
"""

    def run(self, folder, process, error):
        program = folder / "program.py"
        program.write_text(self.PROGRAM.format(process=process, error=error))
        variables = {"PYTHONPATH": str(ROOT)}
        return Run(
            program,
            "--config=tests/configs/demo.py",
            "--config.peer_timeout=10",
            devices=1,
            variables={0: variables, 1: variables},
        )

    def ends(self, folder, process, error):
        with self.run(folder, process, error) as run:
            ends = run.finish(timeout=60)
        return ends[process], ends[1 - process]

    @pytest.mark.parametrize("process", [0, pytest.param(1, marks=pytest.mark.slow)])
    def test_by_being_killed(self, tmp_path, process):
        with self.run(tmp_path, None, None) as run:
            for started in range(2):
                assert run[started].stdout.readline() == "begun\n"
            kill_worker(run, process)
            _, stderr = run[1 - process].communicate(timeout=60)
            status, _, own = run.finish(timeout=30)[process]
        assert run[1 - process].returncode == 75, stderr
        *_, line = said(stderr)
        assert f"process {process} on {socket.gethostname()} of this run was lost" in line
        assert status == 128 + signal.SIGKILL
        assert said(own) == []

    @pytest.mark.parametrize("process", [pytest.param(0, marks=pytest.mark.slow), 1])
    def test_by_a_user_error(self, tmp_path, process):
        (status, _, stderr), (other_status, _, other) = self.ends(
            tmp_path, process, "UserError('no room')"
        )
        assert (status, other_status) == (2, 2)
        assert said(stderr) == ["program.py: error: no room"]
        assert said(other) == [f"program.py: error: process {process} stopped: no room"]

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "error",
        [
            "ValueError('broken')",
            # A lost process may have caused the error, until JAX finds none.
            "jax.errors.JaxRuntimeError('INTERNAL: broken')",
        ],
    )
    def test_by_a_bug(self, tmp_path, error):
        (status, _, stderr), (other_status, _, other) = self.ends(tmp_path, 1, error)
        assert (status, other_status) == (1, 2)
        assert "Traceback" in stderr
        assert "broken" in stderr.splitlines()[-1]
        [line] = said(other)
        assert "process 1 stopped: " in line
        assert "broken" in line
