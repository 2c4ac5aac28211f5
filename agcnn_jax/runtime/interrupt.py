"""Ctrl-C while a program's imports run, which take seconds, ends it in one line.

Imports only built-in modules, so that little time passes before it takes effect.
"""

import gc
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

INTERRUPTED_STATUS = 130
"""Ctrl-C, as shells report it."""

INTERRUPTED = "interrupted; run the same command again to continue"


def end_quietly() -> None:
    """End this program without a traceback on Ctrl-C, until `raise_again`."""
    signal.signal(signal.SIGINT, _end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def hold_back() -> None:
    """Keep Ctrl-C until `end_quietly` or `raise_again`, also in a program that replaces this."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def raise_again() -> None:
    """Let Ctrl-C raise `KeyboardInterrupt` again, where `end_quietly` has changed that."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, raise_interrupt)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def raise_interrupt(number: int, frame: FrameType | None) -> None:
    """Raise `KeyboardInterrupt`: a handler of SIGINT that garbage collection does not lose.

    JAX has a hook in Python's garbage collector, and Python prints and drops what a hook, a
    `__del__` or a callback of a weak reference raises. A signal that arrives there comes again a
    moment later.
    """
    hooks = [getattr(hook, "__code__", None) for hook in gc.callbacks]
    at = frame
    while at is not None:
        weak = at.f_globals.get("__name__") in ("weakref", "_weakrefset")
        if weak or at.f_code in hooks or at.f_code.co_name == "__del__":
            import threading  # only now: see above

            threading.Timer(0.01, os.kill, (os.getpid(), number)).start()
            return
        at = at.f_back
    signal.default_int_handler(number, frame)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    path, name = os.path.split(sys.argv[0])
    program = os.path.basename(path) if name == "__main__.py" else name
    try:
        os.write(2, f"{program}: {INTERRUPTED}\n".encode())
    finally:
        os._exit(INTERRUPTED_STATUS)
