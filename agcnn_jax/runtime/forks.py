"""Forks, which the threads of JAX and tensorstore do not survive."""

from __future__ import annotations

import os

_PROCESS = os.getpid()


def forked() -> bool:
    """Tell whether this process was forked from the one that imported this module.

    Import it no earlier than a library that starts threads: a fork before that does no harm.
    """
    return os.getpid() != _PROCESS
