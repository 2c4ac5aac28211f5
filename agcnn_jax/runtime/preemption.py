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

StopRequest = Callable[[], bool]
"""Returns True if it is time to stop. All processes call it equally often and get one answer."""


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Hold back SIGTERM and the first Ctrl-C; a second Ctrl-C stops at once.

    When the `StopRequest` returns True, the caller saves and raises `Stopped`, which becomes a
    `KeyboardInterrupt` if Ctrl-C was the reason. With several processes, JAX catches SIGTERM and
    makes all agree on a future step; orbax's `reached_preemption` asks for it.
    """
    several, stopping = jax.process_count() > 1, False
    caught: list[int] = []
    calls = itertools.count(1)

    def hold(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and signal.SIGINT in caught:
            signal.default_int_handler(number, frame)
        caught.append(number)
        if number == signal.SIGINT:
            print("\nstopping after this step; Ctrl-C again stops at once", file=sys.stderr)
            if several:
                os.kill(os.getpid(), signal.SIGTERM)

    def requested() -> bool:
        nonlocal stopping
        # Calls are counted because every stage counts its steps from 1. JAX says yes at one number
        # only, possibly that of a stage's last step; the next stage must not begin.
        stopping = stopping or (reached_preemption(next(calls)) if several else bool(caught))
        return stopping

    numbers = (signal.SIGINT,) if several else (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, hold) for number in numbers}
    try:
        yield requested
    except Stopped as stopped:
        if signal.SIGINT in caught:
            raise KeyboardInterrupt(str(stopped)) from None
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
