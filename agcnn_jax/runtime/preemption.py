"""SIGTERM and Ctrl-C take effect between steps, where everything can be saved."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import jax
from orbax.checkpoint.utils import reached_preemption

from agcnn_jax.runtime.errors import Stopped
from agcnn_jax.runtime.interrupt import raise_interrupt
from agcnn_jax.runtime.progress import write_line

StopRequest = Callable[[], bool]
"""Returns True if it is time to stop. All processes call it equally often and get one answer."""

# What follows outlives a `stop_requests`, because a process may train several runs one after the
# other: a stop that came too late for one run holds for the next.
_calls = itertools.count(1)
_agreed: list[int] = []
"""The number of the call at which JAX said to stop, if it has."""
_caught: list[int] = []
"""The signals that were held back and have not ended a run yet."""


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Hold back SIGTERM and the first Ctrl-C; a second Ctrl-C stops at once.

    When the `StopRequest` returns True, the caller saves and raises `Stopped`, which becomes a
    `KeyboardInterrupt` if Ctrl-C was the reason. With several processes, JAX catches SIGTERM and
    makes all agree on a future step; orbax's `reached_preemption` asks for it.
    """
    several = jax.process_count() > 1

    def hold(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and signal.SIGINT in _caught:
            raise_interrupt(number, frame)
            return  # It comes again.
        _caught.append(number)
        if number == signal.SIGINT:
            write_line("stopping after this step; Ctrl-C again stops at once", sys.stderr)
            if several:
                os.kill(os.getpid(), signal.SIGTERM)

    def requested() -> bool:
        if not several:
            return bool(_caught)
        # Every stage counts its steps from 1, but JAX chooses a number above all that it was asked
        # about, so the calls are counted. It says yes at that number only, possibly that of a
        # stage's last step; the next stage must not begin.
        call = next(_calls)
        if not _agreed and reached_preemption(call):
            _agreed.append(call)
        return bool(_agreed)

    numbers = (signal.SIGINT,) if several else (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, hold) for number in numbers}
    try:
        yield requested
    except BaseException as error:
        interrupted = signal.SIGINT in _caught
        _caught.clear()
        _agreed.clear()
        if interrupted and isinstance(error, Stopped):
            raise KeyboardInterrupt(str(error)) from None
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
