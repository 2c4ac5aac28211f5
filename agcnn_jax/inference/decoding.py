"""Decoding films in processes of their own: fast, and safe from a film that crashes a decoder."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import connection, resource_tracker
from typing import Any

import numpy as np
from PIL import Image

from agcnn_jax.data.films import decode_film, load_film, resize_film
from agcnn_jax.data.pixels import UnreadableImageError
from agcnn_jax.inference.films import NO_PIXELS, DecodedFilm, Fetched, Unread
from agcnn_jax.inference.limits import Work
from agcnn_jax.runtime.errors import UserError

SECONDS = 60.0
"""How long a film may take; the largest take a few seconds."""

MEMORY = 3 * 1024**3
"""Bytes that a process may take for decoding, several times what the largest film needs."""

_CRASHED = "damaged: it crashed the decoder"
_AHEAD = 4
"""Films that are ready or in work ahead of the consumer, for each process."""

_END = object()

_spawn = multiprocessing.get_context("spawn")  # forking a process that has threads may deadlock


Decode = Callable[[str | bytes, int, int], DecodedFilm | str]
_Options = tuple[Decode, int, int]


def decode_path(path: str | bytes, size: int, shown: int) -> DecodedFilm | str:
    """Read a film, by its path or from its content, or say why not; see `decode_films`."""
    try:
        film = decode_film(path) if isinstance(path, bytes) else load_film(path)
        height, width = film.shape
        return DecodedFilm(resize_film(film, size), width, height, _shrink(film, shown))
    except UnreadableImageError as error:
        return str(error)
    except Exception as error:
        return f"cannot be decoded ({type(error).__name__})"


def decode_films(
    paths: Iterable[str],
    size: int,
    *,
    workers: int,
    shown: int = 0,
    seconds: float = SECONDS,
    decode: Decode = decode_path,
    work: Work | None = None,
) -> Iterator[DecodedFilm | str]:
    """Decode films in `workers` processes, and yield them in their order.

    Only so many films are decoded ahead that memory stays constant. A film that crashes its
    process, or takes longer than `seconds`, costs that process alone.

    Args:
        paths: of the films, on the disk or in a bucket; read in a thread, no further than needed.
        size: side S of `DecodedFilm.stored` in pixels.
        workers: number of processes.
        shown: longest side of `DecodedFilm.shown` in pixels; 0 for none.
        seconds: how long a film may take.
        decode: decodes one film.
        work: gets the seconds of the processes.

    Yields:
        The film, or the reason why it cannot be read.

    Raises:
        UserError: the processes cannot start.
        Stopped: a bucket fails.
    """
    work = work or Work()
    ready: queue.Queue[Any] = queue.Queue(_AHEAD * workers)
    stop = threading.Event()

    def put(item: Any) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                return ready.put(item, timeout=0.2)

    def fill() -> None:
        # Here, since the processes import this module and need no clients of buckets.
        from agcnn_jax.inference.fetch import at_once, fetched

        # In a thread, so that processes get their next film while the consumer is busy.
        try:
            with contextlib.closing(fetched(paths, at_once(workers))) as coming:
                for first in coming:  # once; without a film, no process starts
                    pool = _Pool(workers, (decode, size, shown), seconds, work)
                    with contextlib.closing(pool):
                        for item in pool.decode(itertools.chain([first], coming)):
                            put(item)
                            if stop.is_set():
                                return
            put(_END)
        except BaseException as error:
            put(error)

    filler = threading.Thread(target=fill, daemon=True)
    filler.start()
    try:
        while (item := ready.get()) is not _END:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        filler.join()


class _Worker:
    """A process, and the film that it decodes."""

    def __init__(self, options: _Options):
        self.connection, theirs = _spawn.Pipe()
        self.process = _spawn.Process(target=_serve, args=(theirs, *options), daemon=True)
        resource_tracker.ensure_running()  # Python 3.11's start unblocks Ctrl-C
        # A terminal sends Ctrl-C to all processes, but only the main one handles it.
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)
        theirs.close()
        self.started = False
        self.film: int | None = None
        self.began = 0.0
        self.deadline = float("inf")

    def close(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


class _Pool:
    """Processes that decode; one that ends is replaced."""

    def __init__(self, workers: int, options: _Options, seconds: float, work: Work):
        self._options, self._seconds, self._work = options, seconds, work
        self._workers = [_Worker(options) for _ in range(workers)]

    def close(self) -> None:
        for worker in self._workers:
            worker.close()

    def decode(self, films: Iterable[Fetched]) -> Iterator[DecodedFilm | str]:
        done: dict[int, DecodedFilm | str] = {}
        coming, next_film, more = iter(films), 0, True
        for number in itertools.count():
            while number not in done:
                for worker in self._workers:
                    ahead = next_film - number < _AHEAD * len(self._workers)
                    if not (worker.started and worker.film is None and more and ahead):
                        continue
                    began = time.monotonic()
                    film = next(coming, None)
                    now = time.monotonic()
                    self._work.fetching += now - began
                    if film is None:
                        more = False
                    elif isinstance(film, Unread):
                        done[next_film] = film.reason
                        next_film += 1
                    else:
                        worker.film, worker.began = next_film, now
                        worker.deadline = now + self._seconds
                        with contextlib.suppress(OSError):  # if it has died, `_receive` finds out
                            worker.connection.send(film)
                        next_film += 1
                if not more and number == next_film:
                    return
                if number not in done:
                    done.update(self._receive())
            yield done.pop(number)

    def _receive(self) -> dict[int, DecodedFilm | str]:
        """Wait for a film, an end or a deadline; return the films that are done."""
        patience = min(worker.deadline for worker in self._workers) - time.monotonic()
        ready = connection.wait(
            [worker.connection for worker in self._workers],
            None if patience == float("inf") else max(patience, 0),
        )
        done: dict[int, DecodedFilm | str] = {}
        for place, worker in enumerate(self._workers):
            answer, lives = None, True
            if worker.connection in ready:
                try:
                    answer = worker.connection.recv()
                except (EOFError, OSError):
                    answer, lives = _CRASHED, False
            elif time.monotonic() > worker.deadline:
                answer, lives = f"takes more than {self._seconds:g} s to decode", False
            else:
                continue
            if worker.film is not None:
                done[worker.film] = answer
                self._work.decoding += time.monotonic() - worker.began
            if lives:
                worker.started, worker.film, worker.deadline = True, None, float("inf")
                continue
            if not worker.started:
                raise UserError(
                    "the processes that decode films do not start, perhaps for lack of memory; use "
                    "fewer with --workers"
                )
            worker.close()
            self._workers[place] = _Worker(self._options)
        return done


def _serve(films: Any, decode: Decode, size: int, shown: int) -> None:
    """Decode what the main process sends, until it closes the connection or is killed."""
    warnings.simplefilter("ignore")
    _limit_memory()
    # What C libraries print may repeat a header, and helps nobody.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    with contextlib.suppress(EOFError, OSError):
        films.send(None)
        while True:
            films.send(decode(films.recv(), size, shown))


def _shrink(film: np.ndarray, longest: int) -> np.ndarray:
    if not longest:
        return NO_PIXELS
    image = Image.fromarray(film)
    image.thumbnail((longest, longest), reducing_gap=2.0)
    return np.asarray(image)


def _limit_memory() -> None:
    """Make an allocation fail before a hostile film takes the machine's memory."""
    if not sys.platform.startswith("linux"):
        return
    import resource

    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[5])  # data and stack
    limit = pages * resource.getpagesize() + MEMORY
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
