"""A run of 24 epochs that is stopped and killed, flaps, and meets a full and a slow disk.

It must end like an undisturbed run, and the undisturbed one may not grow.
"""

import contextlib
import itertools
import json
import os
import random
import signal
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from etils import epath

from agcnn_jax.run.checkpoints import StageCheckpoints
from agcnn_jax.runtime.workdir_lock import FILE
from tests.pods import slow_disk
from tests.pods.interrupted import STAGES, entries, said, same_records
from tests.pods.refusals import refused
from tests.pods.test_disks import FULL
from tests.support.disks import WITH_DISK, mounted
from tests.support.processes import DEMO, Run
from tests.support.started import TINY

EPOCHS = 8
"""Of each stage."""

STEPS = 5
"""Of each epoch."""

OPTIONS = (
    *DEMO,
    f"--config.epochs={EPOCHS}",
    "--config.log_every=1",
    "--config.checkpoint_every=2",
    "--config.peer_timeout=10",
    "--start_timeout=30",
)

SECONDS = {"start": 6, "compilation": 2, "step": 0.15, "checkpoint": 0.3, "validation": 1, "end": 1}
"""What is interrupted, and the longest time after its beginning until the signal comes.

"end" is the end of a stage.
"""

PROGRAMS = {
    "checkpoint": (*slow_disk.SLOW, "train.py"),
    "validation": ("-m", "tests.pods.slow_validation"),
    "end": (*slow_disk.SLOW, "train.py"),
}
"""Programs in which these take long enough to be met."""


def training(data_dir, workdir, program=("train.py",), **settings):
    """Start a run in two processes of two devices."""
    options = (*OPTIONS, f"--config.data.dir={data_dir}", f"--workdir={workdir}")
    return Run(*program, *options, **settings)


def validated(workdir):
    """Return the number of epochs whose validation is in the log."""
    return sum("val_auc_mean" in entry for entry in entries(workdir))


def steps(workdir):
    """Return the number of steps in the log."""
    return sum("loss" in entry for entry in entries(workdir))


def checkpoints(workdir):
    """Return the finished checkpoints and what else lies beside them, such as unfinished ones."""
    folder = "stages/*/checkpoints"
    every = {path.relative_to(workdir) for path in workdir.glob(f"{folder}/*")}
    finished = {path for path in every if path.name.isdigit()}
    return finished, every - finished


def saved(workdir):
    """Return the step of each stage's latest checkpoint."""
    found = [(path.parts[1], int(path.name)) for path in checkpoints(workdir)[0]]
    return {stage: max(step for one, step in found if one == stage) for stage, _ in found}


def results(workdir):
    return {path.parent.name: path.read_bytes() for path in workdir.glob("stages/*/result.json")}


def holder(workdir):
    """Return the number of the process that trains, or last trained, in a workdir."""
    with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
        return json.loads((workdir / FILE).read_text())["process"]
    return None


def in_validation(workdir):
    """Tell whether an epoch is saved whose validation is not in the log."""
    scored = {(e["stage"], e["step"]) for e in entries(workdir) if "val_auc_mean" in e}
    return any(
        step % STEPS == 0 and (path.parts[1], step) not in scored
        for path in checkpoints(workdir)[0]
        if (step := int(path.name))
    )


class Soak:
    """A workdir on a disk of its own, in which a run is started again and again."""

    def __init__(self, data_dir, disk, draw):
        self.outside = disk.outside / "run"
        self.inside = disk.path / "run"
        self._data_dir, self._disk, self._draw = data_dir, disk, draw
        self._begin = time.monotonic()
        self.starts = 0

    def start(self, program=("train.py",)):
        self.starts += 1
        variables = {**self._disk.variables, slow_disk.VARIABLE: str(self.inside)}
        return training(
            self._data_dir,
            self.inside,
            program=(*WITH_DISK, TINY, *program),
            variables=dict.fromkeys(range(2), variables),
        )

    def tell(self, what, ends):
        """Print a line on one start."""
        seconds, statuses = time.monotonic() - self._begin, [status for status, _, _ in ends]
        place = f"{validated(self.outside)} epochs, {steps(self.outside)} steps"
        print(f"{seconds:6.0f} s  start {self.starts:2}  {what:32} {statuses!s:12} {place}")

    def wait_for(self, run, phase, epochs):
        """Wait until a run is in a phase, and has validated this many epochs in all."""
        if phase == "start":
            return
        if phase == "compilation":
            run.wait_for(lambda: holder(self.outside) == run.worker(0), timeout=300)
            return
        run.wait_for(lambda: holder(self.outside) == run.worker(0), timeout=300)
        run.wait_for(lambda: validated(self.outside) >= epochs, timeout=300)
        goal, known = steps(self.outside) + self._draw.randint(1, 3), results(self.outside)
        run.wait_for(
            {
                "step": lambda: steps(self.outside) >= goal,
                "checkpoint": lambda: checkpoints(self.outside)[1],
                "validation": lambda: in_validation(self.outside),
                "end": lambda: results(self.outside) != known,
            }[phase],
            timeout=300,
        )

    def interrupt(self, phase, number, epochs, victim=None):
        """Start the run, send a signal to one of its processes in a phase, and see how all end."""
        victim = self._draw.randrange(2) if victim is None else victim
        at_launcher = self._draw.random() < 0.5
        seconds = self._draw.uniform(0, SECONDS[phase])
        before = saved(self.outside)
        with self.start(PROGRAMS.get(phase, ("train.py",))) as run:
            self.wait_for(run, phase, epochs)
            time.sleep(seconds)
            # A launcher knows the parents only; memory runs out in their children too.
            if number == signal.SIGTERM or at_launcher:
                run[victim].send_signal(number)
            else:
                os.kill(run.worker(victim), number)
            ends = run.finish()
        self.tell(f"{number.name} in {phase} to {victim}", ends)
        killed = {-number, 128 + number}  # by the parent's status, or by its child's
        expected = {victim: killed if number == signal.SIGKILL else {75}}
        if phase == "start":
            # SIGTERM may come before its handler is there.
            expected[victim].add(-number)
        for process, (status, _, stderr) in enumerate(ends):
            assert status in expected.get(process, {75}), stderr
            said(stderr)  # No traceback is among it.
        after = saved(self.outside)
        assert all(step <= after[stage] for stage, step in before.items()), (before, after)

    def meet_a_full_disk(self, epochs):
        """Fill the disk under a run, start it again on the full disk, and make room."""
        with self.start() as run:
            self.wait_for(run, "step", epochs)
            self._disk.fill()
            ends = run.finish()
        self.tell("a disk that fills up", ends)
        refused(ends, str(self.inside), *FULL)
        with self.start() as run:
            ends = run.finish()
        self.tell("a full disk", ends)
        refused(ends, str(self.inside), *FULL)
        self._disk.make_room()

    def flap(self):
        """Kill the same process three times, a little later each time."""
        victim = self._draw.randrange(2)
        for phase in ("start", "compilation", "step"):
            self.interrupt(phase, signal.SIGKILL, 0, victim)

    def end(self):
        with self.start() as run:
            run.succeed()
        self.tell("the last", [(0, "", "")] * 2)


GROWTH = {"memory": 16, "threads": 2, "files": 2}
"""From the third and fourth epoch of a stage to its last two; memory in MiB."""


def measured(pid):
    """Return MiB of memory, threads and open files of a process."""
    with open(f"/proc/{pid}/status") as file:
        status = dict(line.split(":", 1) for line in file)
    return SimpleNamespace(
        memory=int(status["VmRSS"].split()[0]) / 1024,
        threads=int(status["Threads"]),
        files=len(os.listdir(f"/proc/{pid}/fd")),
    )


@pytest.fixture(scope="module")
def undisturbed(data_dir, tmp_path_factory):
    """An undisturbed run: its workdir, and what each process took in each epoch."""
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    taken = {process: [[] for _ in range(3 * EPOCHS)] for process in range(2)}
    with training(data_dir, workdir) as run:

        def ends(epoch):
            for process, epochs in taken.items():
                epochs[epoch].append(measured(run.worker(process)))
            return validated(workdir) > epoch

        # The processes may end with the last epoch.
        for epoch in range(3 * EPOCHS - 1):
            run.wait_for(lambda epoch=epoch: ends(epoch), timeout=300)
        run.succeed()
    return SimpleNamespace(workdir=workdir, taken=taken)


@pytest.mark.slow
def test_memory_threads_and_files_are_flat(undisturbed):
    """Of each process in each stage: its programs, once compiled, stay in memory."""
    for (process, epochs), (number, stage) in itertools.product(
        undisturbed.taken.items(), enumerate(STAGES)
    ):
        # In its first epochs a stage compiles, and fills its buffers and pools of threads.
        rows = epochs[number * EPOCHS + 2 : (number + 1) * EPOCHS - 1]
        for what, growth in GROWTH.items():
            # What is open while a checkpoint is being written does not count.
            least = [min(getattr(row, what) for row in epoch) for epoch in rows]
            first, last = min(least[:2]), min(least[-2:])
            print(f"process {process}, {stage}, {what}: {first:.0f} to {last:.0f}")
            assert last <= first + growth, least


@pytest.mark.slow
def test_ends_like_an_undisturbed_run(data_dir, undisturbed, tmp_path):
    seed = random.randrange(2**32)
    draw = random.Random(seed)
    print(f"\ndrawn from seed {seed}")
    begin = time.monotonic()
    numbers = [signal.SIGTERM, signal.SIGKILL]
    with mounted(tmp_path / "disk") as disk:
        soak = Soak(data_dir, disk, draw)
        for stage in range(len(STAGES)):
            first = stage * EPOCHS
            # Each phase meets both signals, in one stage after the other.
            meetings = [
                (phase, numbers[(stage + place) % 2])
                for place, phase in enumerate(SECONDS)
                if phase != "end"
            ]
            draw.shuffle(meetings)
            for epochs, (phase, number) in enumerate(meetings, first + 1):
                soak.interrupt(phase, number, epochs)
            if stage == 0:
                soak.flap()
            if stage == 1:
                soak.meet_a_full_disk(first + EPOCHS - 2)
            if stage < 2:
                soak.interrupt("end", numbers[stage], first + EPOCHS - 1)
        soak.end()
        print(f"{soak.starts} starts took {(time.monotonic() - begin) / 60:.1f} minutes")
        same_runs(soak.outside, undisturbed.workdir)


def others(workdir):
    """Return the files outside checkpoints; each start adds one of TensorBoard's."""
    every = (path.relative_to(workdir) for path in workdir.rglob("*"))
    return {path for path in every if not {"events", "checkpoints"} & {*path.parts}}


def same_runs(workdir, other):
    """Assert that logs, results and all kept checkpoints are equal, to the last bit."""
    same_records(workdir, other)
    assert results(workdir) == results(other)
    assert set(results(workdir)) == set(STAGES)
    assert checkpoints(workdir) == checkpoints(other)
    assert others(workdir) == others(other)
    for stage in STAGES:
        folders = (epath.Path(run) / "stages" / stage / "checkpoints" for run in (workdir, other))
        mine, reference = (StageCheckpoints(folder, read_only=True) for folder in folders)
        with mine, reference:
            for step in reference.all_steps():
                found, expected = mine.restore_best(step)[0], reference.restore_best(step)[0]
                for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
                    np.testing.assert_array_equal(a, b)
