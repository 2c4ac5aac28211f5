"""Forks, which the threads of JAX, of ONNX engines and of tensorstore do not survive."""

from __future__ import annotations

import os

from agcnn_jax.runtime.errors import UserError

_PROCESS = os.getpid()


def forked() -> bool:
    """Tell whether this process was forked from the one that imported this module.

    Import it no earlier than a library that starts threads: a fork before that does no harm.
    """
    return os.getpid() != _PROCESS


def check_not_forked() -> None:
    """Raise `UserError` in a forked process: there, a model would wait for its threads for ever."""
    if forked():
        raise UserError(
            "this process was forked from one that had loaded a model or read a JPEG; start "
            'it with multiprocessing.get_context("spawn"), or load the model only after the fork'
        )
