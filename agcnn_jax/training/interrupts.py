"""Ctrl-C at a place of our choosing: between steps, not within a checkpoint."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def deferred_interrupts() -> Iterator[Callable[[], None]]:
    """Hold the first Ctrl-C back; the second one stops at once.

    Orbax (0.12) reports an interrupted wait for a checkpoint with a traceback of its own, so the
    first Ctrl-C waits until no checkpoint is in the making.

    Yields:
        A function to call between steps: it raises `KeyboardInterrupt` once Ctrl-C was pressed. So
        does leaving the context.
    """
    previous = signal.getsignal(signal.SIGINT)
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or previous is not signal.default_int_handler:
        yield lambda: None
        return
    pressed = threading.Event()

    def hold(number: int, frame: FrameType | None) -> None:
        if pressed.is_set():
            signal.default_int_handler(number, frame)
        pressed.set()
        print("\nstopping after this step; Ctrl-C again stops at once", file=sys.stderr)

    def check() -> None:
        if pressed.is_set():
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, hold)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, previous)
    check()
