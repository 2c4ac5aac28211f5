"""Tasks in several processes, with an orderly end on Ctrl-C."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from pathlib import Path
from typing import Any

from agcnn_jax.runtime.errors import UserError

POLL_SECONDS = 0.2

Work = Callable[[Any, Any, Callable[[], None]], None]
"""Does a task, given what all tasks share, and calls the function after each image."""


class _StoppedError(Exception):
    """The main process has asked the workers to stop."""


# State of a worker process, set by `_start`.
_worker: dict[str, Any] = {}


def run_tasks(
    work: Work,
    tasks: Sequence[Any],
    context: Any,
    scratch: Path,
    workers: int,
    report: Callable[[int, int], None],
) -> int:
    """Do every task.

    Args:
        work: does one; a function of a module, which other processes can import. An exception from
            the function that it is given stops it.
        tasks: that are not done yet.
        context: what all tasks share.
        scratch: folder for a file that hands the context to the workers.
        workers: number of processes; with 1, this process does the work.
        report: called periodically with the numbers of images and tasks done so far.

    Returns:
        The number of images.

    Raises:
        UserError: raised by a task, or a worker was killed.
        KeyboardInterrupt: Ctrl-C; workers have stopped, finished tasks are kept.
    """
    workers = min(workers, len(tasks))
    if workers <= 1:
        return _run_here(work, tasks, context, report)
    spawn = multiprocessing.get_context("spawn")  # forking a process that has threads may deadlock
    stop = spawn.Event()
    images = spawn.Value("q", 0)
    # In a file: arguments larger than a pipe's buffer would make workers start one by one.
    shared = scratch / "context.part"
    shared.write_bytes(pickle.dumps((work, context)))
    with ProcessPoolExecutor(
        workers, mp_context=spawn, initializer=_start, initargs=(shared, stop, images)
    ) as pool:
        try:
            # Workers start with the first task and inherit the signal mask. A terminal sends
            # Ctrl-C to all processes, but only this one handles it.
            with _block_interrupts():
                pending = {pool.submit(_run_in_worker, task) for task in tasks}
            while pending:
                done, pending = wait(pending, POLL_SECONDS, FIRST_EXCEPTION)
                for future in done:
                    future.result()
                report(images.value, len(tasks) - len(pending))
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


def _run_here(
    work: Work, tasks: Sequence[Any], context: Any, report: Callable[[int, int], None]
) -> int:
    images = 0
    for done, task in enumerate(tasks):

        def progress(done: int = done) -> None:
            nonlocal images
            images += 1
            report(images, done)

        work(task, context, progress)
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
    work, context = pickle.loads(shared.read_bytes())
    _worker.update(work=work, context=context, stop=stop, images=images)


def _follow_parent() -> None:
    """Exit when the parent is killed; this worker would wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _run_in_worker(task: Any) -> None:
    def progress() -> None:
        with _worker["images"].get_lock():
            _worker["images"].value += 1
        if _worker["stop"].is_set():
            raise _StoppedError

    _worker["work"](task, _worker["context"], progress)
