"""Run the repository's programs as a user does."""

import atexit
import os
import subprocess
import sys
from pathlib import Path

from tests.support.started import Started

ROOT = Path(__file__).parents[2]
FORKED = (
    "train.py",
    "eval.py",
    "data_prep/torch_weights.py",
    "agcnn_jax.experiments",
    "agcnn_jax.check",
)
"""Programs that run in a fork of a process with their imports done."""

_STARTED: list[Started] = []


def run(*arguments, cwd=None, check=True, env=None, timeout=None):
    """Run a program as a user does, but without the seconds that its imports take."""
    command = [str(argument) for argument in arguments]
    env = env or os.environ
    program = command[1] if command[0] == "-m" else command[0]
    if not program.endswith(FORKED):
        done = subprocess.run(
            [sys.executable, *command],
            cwd=cwd or ROOT,
            env=env,
            timeout=timeout,
            capture_output=True,
            text=True,
            check=False,
        )
    else:
        done = _started(env).run(command, cwd or ROOT, env, timeout)
    if check:
        assert done.returncode == 0, done.stderr
    return done


def _started(env):
    """The process that forks programs with this environment; two are kept, each half a gigabyte."""
    found = next((started for started in _STARTED if started.fits(env)), None)
    if found is None:
        while len(_STARTED) > 1:
            _STARTED.pop(0).close()
        found = Started(env)
    else:
        _STARTED.remove(found)
    _STARTED.append(found)
    return found


@atexit.register
def _close():
    while _STARTED:
        _STARTED.pop().close()
