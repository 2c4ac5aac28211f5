"""Writing the units in several processes, with progress and an orderly end on Ctrl-C."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from pathlib import Path
from typing import Any

from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.progress import Progress
from data_prep.nih.plans import Plan
from data_prep.nih.shards import Context, Unit, read_result, write_unit

POLL_SECONDS = 0.2


class _StoppedError(Exception):
    """The main process has asked the workers to stop."""


# State of a worker process, set by `_start`.
_worker: dict[str, Any] = {}


def write_shards(plan: Plan, num_workers: int) -> int:
    """Write the units that no earlier run has finished; return their number of images."""
    scratch = plan.context.scratch
    _remove_stale(scratch, plan.units)
    results = [read_result(scratch, unit) for unit in plan.units]
    finished = [result for result in results if result is not None]
    kept = sum(len(result.written) + len(result.set_aside) for result in finished)
    pending = [unit for unit, result in zip(plan.units, results, strict=True) if result is None]
    with Progress("preparing", plan.images, "files", kept) as bar:

        def report(images: int, units: int) -> None:
            shard = f"shard {len(finished) + units} of {len(plan.units)}"
            bar.update(kept + images - bar.done, shard)

        return run_units(pending, plan.context, num_workers, report)


def _remove_stale(scratch: Path, units: list[Unit]) -> None:
    """Remove what earlier runs left and this one cannot use."""
    current = {unit.key for unit in units} | {"lock"}
    for path in scratch.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.suffix == ".part" or path.name.split(".")[0] not in current:
            path.unlink()


def run_units(
    units: list[Unit], context: Context, workers: int, report: Callable[[int, int], None]
) -> int:
    """Write the shard and the result of every unit.

    Args:
        units: the unfinished units.
        context: passed to `write_unit`.
        workers: number of processes; with 1, this process does the work.
        report: called periodically with the numbers of images and units done so far.

    Returns:
        The number of images.

    Raises:
        UserError: raised by a unit, or a worker was killed.
        KeyboardInterrupt: Ctrl-C; workers have stopped, finished units are kept.
    """
    workers = min(workers, len(units))
    if workers <= 1:
        return _run_here(units, context, report)
    spawn = multiprocessing.get_context("spawn")  # forking a process that has threads may deadlock
    stop = spawn.Event()
    images = spawn.Value("q", 0)
    # In a file: arguments larger than a pipe's buffer would make workers start one by one.
    shared = context.scratch / "context.part"
    shared.write_bytes(pickle.dumps(context))
    with ProcessPoolExecutor(
        workers, mp_context=spawn, initializer=_start, initargs=(shared, stop, images)
    ) as pool:
        try:
            # Workers start with the first task and inherit the signal mask. A terminal sends
            # Ctrl-C to all processes, but only this one handles it.
            with _block_interrupts():
                pending = {pool.submit(_run_in_worker, unit) for unit in units}
            while pending:
                done, pending = wait(pending, POLL_SECONDS, FIRST_EXCEPTION)
                for future in done:
                    future.result()
                report(images.value, len(units) - len(pending))
        except BrokenProcessPool:
            raise UserError(
                f"--workers {workers}: a worker was killed, perhaps for lack of memory; run again "
                "with fewer to continue"
            ) from None
        finally:
            stop.set()
            # Waits for the current images, and for workers that are still starting: they need the
            # semaphores of the queue, which the pool destroys.
            pool.shutdown(wait=True, cancel_futures=True)
            shared.unlink()
    return int(images.value)


def _run_here(units: list[Unit], context: Context, report: Callable[[int, int], None]) -> int:
    images = 0
    for done, unit in enumerate(units):

        def progress(done: int = done) -> None:
            nonlocal images
            images += 1
            report(images, done)

        write_unit(unit, context, progress)
    return images


@contextlib.contextmanager
def _block_interrupts() -> Iterator[None]:
    """Block Ctrl-C: this process receives it afterwards, processes started here never do."""
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _start(shared: Path, stop: Any, images: Any) -> None:
    threading.Thread(target=_follow_parent, daemon=True).start()
    _worker.update(context=pickle.loads(shared.read_bytes()), stop=stop, images=images)


def _follow_parent() -> None:
    """Exit when the parent is killed; this worker would wait for work forever."""
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
