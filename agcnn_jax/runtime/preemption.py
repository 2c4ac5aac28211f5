"""SIGTERM and Ctrl-C at a place of our choosing: between steps, with everything saved."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import jax
from orbax.checkpoint.utils import reached_preemption

from agcnn_jax.runtime.errors import Stopped

StopRequest = Callable[[], bool]
"""Says whether to stop now. All processes of a run ask equally often, and hear the same."""


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Hold back SIGTERM and the first Ctrl-C; a second Ctrl-C stops at once.

    With several processes, JAX catches SIGTERM in each and has all of them agree on a step that
    none has done yet; orbax's `reached_preemption` asks for it. Ctrl-C in one of them counts as
    SIGTERM there.

    Yields:
        See `StopRequest`. Who hears that it is time saves, and raises `Stopped`; if it was
        Ctrl-C, that becomes a `KeyboardInterrupt`.
    """
    several = jax.process_count() > 1
    caught: list[int] = []

    def hold(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and signal.SIGINT in caught:
            signal.default_int_handler(number, frame)
        caught.append(number)
        if number == signal.SIGINT:
            print("\nstopping after this step; Ctrl-C again stops at once", file=sys.stderr)
            if several:
                os.kill(os.getpid(), signal.SIGTERM)

    asked = itertools.count(1)
    agreed = False

    def requested() -> bool:
        nonlocal agreed
        if not several:
            return bool(caught)
        # Counted here, since every stage counts its steps from 1: JAX agrees on one number to come.
        # It says so at that number alone, which may be the last step of a stage; the stage after
        # it is then not to begin.
        agreed = reached_preemption(next(asked)) or agreed
        return agreed

    # JAX's own handler of SIGTERM stays where there are several processes.
    numbers = (signal.SIGINT,) if several else (signal.SIGINT, signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread():
        yield requested
        return
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
