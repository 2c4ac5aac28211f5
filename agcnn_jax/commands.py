"""Starts the commands: those that pip installs, and the files at the top of a checkout.

Ctrl-C ends them in one line, also during their imports, which take seconds.
"""

import importlib
import sys
from typing import NoReturn

from agcnn_jax.runtime.interrupt import end_quietly


def start(module: str) -> NoReturn:
    """Import a command's module and run it as this program."""
    end_quietly()
    try:
        command = importlib.import_module(module)
    except ModuleNotFoundError as error:
        from agcnn_jax.runtime.errors import USAGE_STATUS, missing_package, say

        if not (message := missing_package(error)):
            raise
        say(f"error: {message}")
        sys.exit(USAGE_STATUS)
    command.run()
    raise AssertionError(f"run of {module} returned")


def train() -> NoReturn:
    """Train a network."""
    start("agcnn_jax.train")


def evaluate() -> NoReturn:
    """Score a run, converted weights or a file of predictions."""
    start("agcnn_jax.eval")
