"""Running units on all cores: progress, Ctrl-C, and workers that die with their parent."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from pathlib import Path
from typing import Any

import tqdm

from agcnn_jax.runtime.errors import UserError
from data_prep.nih.plans import Plan
from data_prep.nih.shards import Context, Unit, read_result, write_unit

POLL_SECONDS = 0.2


class _StoppedError(Exception):
    """The main process asked to stop between two images."""


# What a worker process was started with.
_worker: dict[str, Any] = {}


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def write_shards(plan: Plan, num_workers: int) -> int:
    """Write the units that no earlier run finished; return how many images that were."""
    scratch = plan.context.scratch
    current = {unit.key for unit in plan.units}
    for path in scratch.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.suffix == ".part" or path.name.split(".")[0] not in current | {"lock"}:
            path.unlink()
    pending = []
    kept = 0
    for unit in plan.units:
        result = read_result(scratch, unit)
        if result is None:
            pending.append(unit)
        else:
            kept += len(result.written) + len(result.set_aside)
    # `disable=None` shows no bar where standard error is not a terminal.
    with tqdm.tqdm(
        total=plan.images, initial=kept, unit=" files", disable=None, file=sys.stderr
    ) as bar:
        new = 0

        def report(images: int, units: int) -> None:
            nonlocal new
            new = images
            bar.update(kept + images - bar.n)
            bar.set_postfix_str(
                f"shard {len(plan.units) - len(pending) + units}/{len(plan.units)}", refresh=False
            )

        run_units(pending, plan.context, num_workers, report)
        return new


def run_units(
    units: list[Unit], context: Context, workers: int, report: Callable[[int, int], None]
) -> None:
    """Write every unit's shard and note.

    Args:
        units: what is still to be done.
        context: passed to `write_unit`.
        workers: number of processes; 1 runs in this one.
        report: called now and then with (images, units) done so far.

    Raises:
        UserError: from a unit, or a worker was killed from outside.
        KeyboardInterrupt: Ctrl-C; workers have stopped, finished units are kept.
    """
    workers = min(workers, len(units))
    if workers <= 1:
        _run_here(units, context, report)
        return
    spawn = multiprocessing.get_context("spawn")  # forking a process with threads may hang
    stop = spawn.Event()
    images = spawn.Value("q", 0)
    # In a file, since arguments that overfill a pipe make workers start one after the other.
    shared = context.scratch / "context.part"
    shared.write_bytes(pickle.dumps(context))
    with ProcessPoolExecutor(
        workers, mp_context=spawn, initializer=_start, initargs=(shared, stop, images)
    ) as pool:
        try:
            # Workers start with the first task and inherit the signal mask: Ctrl-C, which the
            # terminal sends to all of them, is for this process alone to answer.
            with _interrupts_held_back():
                pending = {pool.submit(_run_in_worker, unit) for unit in units}
            while pending:
                done, pending = wait(pending, POLL_SECONDS, FIRST_EXCEPTION)
                for future in done:
                    future.result()
                report(images.value, len(units) - len(pending))
        except BrokenProcessPool:
            raise UserError(
                f"--workers {workers}: a worker was killed, as when memory runs out; "
                "run again with fewer, what is done is kept"
            ) from None
        finally:
            stop.set()
            # Waits for the image in hand, and for workers that are still starting: they need the
            # queue's semaphores, which go with the pool.
            pool.shutdown(wait=True, cancel_futures=True)
            shared.unlink()


def _run_here(units: list[Unit], context: Context, report: Callable[[int, int], None]) -> None:
    images = 0
    for done, unit in enumerate(units):

        def progress(done: int = done) -> None:
            nonlocal images
            images += 1
            report(images, done)

        write_unit(unit, context, progress)


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Deliver Ctrl-C to this process afterwards, and never to processes started meanwhile."""
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _start(shared: Path, stop: Any, images: Any) -> None:
    threading.Thread(target=_follow_parent, daemon=True).start()
    _worker.update(context=pickle.loads(shared.read_bytes()), stop=stop, images=images)


def _follow_parent() -> None:
    """End this worker when its parent is killed; it would wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _run_in_worker(unit: Unit) -> None:
    def progress() -> None:
        with _worker["images"].get_lock():
            _worker["images"].value += 1
        if _worker["stop"].is_set():
            raise _StoppedError

    write_unit(unit, _worker["context"], progress)
