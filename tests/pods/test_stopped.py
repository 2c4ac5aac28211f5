"""Runs of several processes that are asked to stop: all save, and resume exactly."""

import itertools
import os
import signal
import socket
import time

import jax
import pytest

from agcnn_jax.runtime import preemption
from agcnn_jax.runtime.errors import Stopped
from tests.pods.interrupted import (
    STAGES,
    entries,
    has_begun,
    latest,
    said,
    same_records,
    same_weights,
    stopped_at,
    training,
)
from tests.support.processes import Run


def terminate(run, process):
    """Signal the process that a launcher started."""
    run[process].terminate()


def interrupt(run, process):
    """Signal the whole foreground group, as a terminal does on Ctrl-C."""
    os.killpg(run[process].pid, signal.SIGINT)


def terminate_all_again_and_again(run, process):
    """Signal all processes of the run repeatedly, as impatient launchers do."""
    worker = run.worker(process)
    while run[process].poll() is None:
        for kill, pid in ((os.killpg, run[process].pid), (os.kill, worker)):
            try:
                kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                return
        time.sleep(0.2)


def stop(run, workdir, stage, process, how=terminate):
    """Stop a run in a stage and check that both processes saved; return statuses and step."""
    run.wait_for(has_begun(workdir, stage), timeout=300)
    how(run, process)
    ends = run.finish()
    places = {stopped_at(stderr) for _, _, stderr in ends}
    assert len(places) == 1
    [(stopped_stage, step)] = places
    assert stopped_stage == stage
    assert latest(workdir, stage)[0] == step
    # Everything logged is saved.
    logged = [entry["step"] for entry in entries(workdir) if entry["stage"] == stage]
    assert max(logged) == step
    return [status for status, _, _ in ends], step


@pytest.mark.slow
def test_sigterm_on_one_process_stops_both(data_dir, runs):
    workdir = runs / "stopped"
    with training(data_dir, workdir) as run:
        statuses, _ = stop(run, workdir, "1_global", process=1)
    assert statuses == [75, 75]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "process", "how", "expected"),
    [
        ("1_global", 0, terminate, [75, 75]),
        ("2_local", 1, terminate_all_again_and_again, [75, 75]),
        ("3_fusion", 1, interrupt, [75, 130]),
    ],
    ids=["terminate-0", "terminate-again-1", "interrupt-1"],
)
def test_a_stopped_run_ends_like_an_uninterrupted_one(
    data_dir, runs, uninterrupted, stage, process, how, expected
):
    workdir = runs / f"stopped_in_{stage}"
    with training(data_dir, workdir) as run:
        statuses, step = stop(run, workdir, stage, process, how)
    assert statuses == expected
    assert step < 10
    with training(data_dir, workdir) as run:
        run.succeed()
    same_records(workdir, uninterrupted)
    same_weights(workdir, uninterrupted)


@pytest.mark.slow
def test_all_stop_in_the_same_batch_of_a_validation(data_dir, runs):
    """The validation has about four batches of a second each; the resumed run repeats it."""
    workdir = runs / "validation"
    options = ("--config.data.protocol=random", "--config.eval_batch_size=4")
    options += ("--config.max_steps=5",)
    with training(data_dir, workdir, *options, program=("-m", "tests.pods.slow_validation")) as run:
        run.wait_for((workdir / "stages/1_global/checkpoints/5").exists, timeout=300)
        terminate(run, 1)
        ends = run.finish()
    assert [(status, stopped_at(stderr)) for status, _, stderr in ends] == [
        (75, ("1_global", 5))
    ] * 2
    assert not any("val_auc_mean" in entry for entry in entries(workdir))
    with training(data_dir, workdir, *options) as run:
        run.succeed()
    steps = [(e["stage"], e["step"]) for e in entries(workdir) if "val_auc_mean" in e]
    assert steps == [(stage, 5) for stage in STAGES]
    losses = [e["step"] for e in entries(workdir) if e["stage"] == "1_global" and "loss" in e]
    assert losses == [1, 2, 3, 4, 5]


# Rounding errors grow per step in float32, and in float64 at the demo's learning rate.
DOUBLE = ("--config.dtype=float64", "--config.learning_rate=0.0001")


@pytest.fixture(scope="module")
def in_double_precision(data_dir, runs):
    """An uninterrupted run on one device."""
    workdir = runs / "double"
    with training(data_dir, workdir, *DOUBLE, processes=1, devices=1) as run:
        run.succeed()
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({}, {"processes": 1, "devices": 1}),
        ({}, {"processes": 1, "devices": 4}),
        ({"processes": 1, "devices": 1}, {}),
    ],
    ids=["2x2-1x1", "2x2-1x4", "1x1-2x2"],
)
def test_a_stopped_run_resumes_with_another_number_of_processes(
    data_dir, runs, in_double_precision, first, then, request
):
    workdir = runs / request.node.callspec.id
    with training(data_dir, workdir, *DOUBLE, **first) as run:
        statuses, _ = stop(run, workdir, "1_global", process=0)
    assert set(statuses) == {75}
    with training(data_dir, workdir, *DOUBLE, **then) as run:
        run.succeed()
    found, expected = entries(workdir), entries(in_double_precision)
    assert [(e["stage"], e["step"], sorted(e)) for e in found] == [
        (e["stage"], e["step"], sorted(e)) for e in expected
    ]
    for a, b in zip(found, expected, strict=True):
        for key in ("loss", "val_auc_mean"):
            if key in a:
                assert a[key] == pytest.approx(b[key], rel=1e-8), (a, b)


@pytest.mark.parametrize(
    ("how", "expected"), [(terminate, 75), (interrupt, 130)], ids=["terminate", "interrupt"]
)
def test_stopped_while_waiting_for_the_others(data_dir, runs, how, expected):
    workdir = runs / "early"
    with training(data_dir, workdir, each={1: None}) as run:
        run.wait_for(lambda: is_listening(run))
        how(run, 0)
        [(status, _, stderr)] = run.finish(timeout=30)
    assert status == expected
    [line] = said(stderr)
    assert "run the same command again" in line
    assert not workdir.exists()


def is_listening(run):
    """Return True if process 0 waits for the others."""
    address = next(a for a in run[0].args if a.startswith("--coordinator_address="))
    with socket.socket() as client:
        return client.connect_ex(("localhost", int(address.rsplit(":", 1)[1]))) == 0


@pytest.mark.slow
def test_a_second_ctrl_c_stops_at_once(data_dir, runs):
    workdir = runs / "interrupted_twice"
    with training(data_dir, workdir) as run:
        run.wait_for(has_begun(workdir, "1_global"), timeout=300)
        interrupt(run, 1)
        time.sleep(0.2)
        interrupt(run, 1)
        begin = time.monotonic()
        (first, _, _), (second, _, stderr) = run.finish(timeout=100)
    # config.peer_timeout, plus time for JAX to notice.
    assert time.monotonic() - begin < 10 + 20
    assert (first, second) == (75, 130)
    assert "Traceback" not in stderr


@pytest.mark.slow
def test_sigterm_on_a_single_process(data_dir, runs):
    workdir = runs / "single"
    with training(data_dir, workdir, processes=1, devices=1) as run:
        assert stop(run, workdir, "1_global", process=0)[0] == [75]


@pytest.fixture
def two_processes(monkeypatch):
    """A process that takes itself for one of two, and that nobody has asked to stop."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(preemption, "_calls", itertools.count(1))
    monkeypatch.setattr(preemption, "_agreed", [])


def test_a_stop_agreed_on_for_the_last_step_of_a_stage_is_not_forgotten(monkeypatch, two_processes):
    # JAX says so at this number only, and training does not stop after the last step.
    monkeypatch.setattr(preemption, "reached_preemption", lambda number: number == 3)
    with preemption.stop_requests() as requested:
        assert [requested() for _ in range(5)] == [False, False, True, True, True]


@pytest.mark.parametrize("last", [3, 4], ids=["in the last call of a run", "between runs"])
def test_a_stop_agreed_on_as_a_run_ends_stops_the_next(monkeypatch, two_processes, last):
    # JAX picks a number above all that it was asked about: 4 at the latest after three calls.
    monkeypatch.setattr(preemption, "reached_preemption", lambda number: number == last)
    with preemption.stop_requests() as requested:
        assert [requested() for _ in range(3)] == [False, False, last == 3]
    with pytest.raises(Stopped), preemption.stop_requests() as requested:
        assert requested()
        raise Stopped
    # Whoever goes on has been told.
    with preemption.stop_requests() as requested:
        assert not requested()


def test_a_sigterm_after_the_last_step_of_a_run_stops_the_next():
    with preemption.stop_requests():
        signal.raise_signal(signal.SIGTERM)  # to this thread, unlike os.kill
    with pytest.raises(Stopped), preemption.stop_requests() as requested:
        assert requested()
        raise Stopped
    with preemption.stop_requests() as requested:
        assert not requested()


@pytest.mark.slow
def test_evaluation_on_two_processes(uninterrupted):
    table = {}
    for processes in (1, 2):
        command = ("eval.py", "--config=tests/configs/demo.py", f"--workdir={uninterrupted}")
        with Run(*command, processes=processes, devices=2) as run:
            first, *others = run.succeed()
        assert others == [""] * (processes - 1)
        table[processes] = first, (uninterrupted / "eval/test/auc.json").read_text()
    assert "fusion" in table[1][0]
    assert table[2] == table[1]


@pytest.mark.slow
def test_sigterm_ends_an_evaluation(uninterrupted):
    command = ("eval.py", "--config=tests/configs/demo.py", f"--workdir={uninterrupted}")
    with Run(*command, "--config.peer_timeout=10") as run:
        read_until(run[0].stderr, "test:")
        run[0].terminate()
        run[1].terminate()
        begin = time.monotonic()
        ends = run.finish(timeout=30)
    assert time.monotonic() - begin < 10
    for status, _, stderr in ends:
        assert status == 75
        assert len(said(stderr)) == 1


def read_until(pipe, text):
    """Read a process's output until it contains the text."""
    found = b""
    while text.encode() not in found:
        more = os.read(pipe.fileno(), 4096)
        assert more, found
        found += more
