"""A run that is killed repeatedly ends like an uninterrupted one."""

import random
import time

import pytest

from tests.pods.interrupted import STAGES, entries, latest, same_records, same_weights
from tests.support.processes import DEMO, Run

KILLS = 20
STEPS = 150
# Five steps an epoch: a checkpoint after the 2nd, the 4th, and, with its validation, the 5th.
OPTIONS = (
    *DEMO,
    "--config.epochs=30",
    "--config.log_every=1",
    "--config.checkpoint_every=2",
)


def command(data_dir, workdir):
    return ("train.py", *OPTIONS, f"--config.data.dir={data_dir}", f"--workdir={workdir}")


def last_step(workdir, stage):
    return max((e["step"] for e in entries(workdir) if e["stage"] == stage), default=0)


def events(workdir):
    """Return TensorBoard's files; each start adds one to a stage that it begins."""
    return list((workdir / "events").glob("*/*"))


def torn(folder):
    return [path for path in folder.glob("*") if not path.name.isdigit()]


def finished(folder):
    return [int(path.name) for path in folder.glob("*") if path.name.isdigit()]


@pytest.fixture(scope="module")
def uninterrupted(data_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted") / "run"
    with Run(*command(data_dir, workdir), processes=1, devices=2) as run:
        run.succeed()
    return workdir


@pytest.mark.slow
def test_killed_twenty_times_in_every_stage(data_dir, uninterrupted, tmp_path):
    workdir = tmp_path / "run"
    seed = random.randrange(2**32)
    print(f"moments drawn from seed {seed}")
    moments = random.Random(seed)
    left_torn = 0
    for stage in STAGES:
        folder = workdir / "stages" / stage / "checkpoints"
        for kill in range(KILLS):
            before, logs = max(finished(folder), default=0), len(events(workdir))
            with Run(*command(data_dir, workdir), processes=1, devices=2) as run:
                if kill % 4 == 2:
                    # At any time: during the start, the restoring, or the rewriting of the log.
                    end = time.monotonic() + moments.uniform(0, 10)
                    while time.monotonic() < end and last_step(workdir, stage) < before + 10:
                        time.sleep(0.02)
                else:
                    run.wait_for(lambda logs=logs: len(events(workdir)) > logs)
                    # At least a step after the start, so that the run advances.
                    goal = before + moments.randint(1, 4)
                    run.wait_for(lambda goal=goal, stage=stage: last_step(workdir, stage) >= goal)
                    if kill % 2:
                        run.wait_for(lambda folder=folder: torn(folder))
                    else:
                        time.sleep(moments.uniform(0, 0.15))
                run[0].kill()
                run[0].wait()
            left_torn += bool(torn(folder))
        assert not (workdir / "stages" / stage / "result.json").exists()
        with Run(*command(data_dir, workdir), processes=1, devices=2) as run:
            # Between the last checkpoint and the next one.
            run.wait_for(lambda folder=folder: STEPS in finished(folder))
            run[0].kill()
            run[0].wait()
    with Run(*command(data_dir, workdir), processes=1, devices=2) as run:
        run.succeed()
    # Many kills came while a checkpoint was being written.
    assert left_torn > KILLS / 2
    same_records(workdir, uninterrupted)
    same_weights(workdir, uninterrupted)
    for stage in STAGES:
        trained = sorted({entry["step"] for entry in entries(workdir) if entry["stage"] == stage})
        assert trained == list(range(1, STEPS + 1))
        assert not torn(workdir / "stages" / stage / "checkpoints")
        assert latest(workdir, stage)[0] == STEPS
        result = f"stages/{stage}/result.json"
        assert (workdir / result).read_bytes() == (uninterrupted / result).read_bytes()
