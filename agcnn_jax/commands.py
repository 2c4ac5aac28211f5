"""Starts the commands: those that pip installs, and the files at the top of a checkout.

Ctrl-C ends them in one line, also during their imports, which take seconds.
"""

import functools
import importlib
from typing import NoReturn

from agcnn_jax.runtime.interrupt import end_quietly


def start(module: str) -> NoReturn:
    """Import a command's module and run it as this program."""
    end_quietly()
    try:
        run = importlib.import_module(module).run
    except ModuleNotFoundError as error:
        from agcnn_jax.runtime import errors

        errors.run(functools.partial(_fail, error))
    run()
    raise AssertionError(f"run of {module} returned")


def _fail(error: ModuleNotFoundError) -> NoReturn:
    """Let `errors.run` say which package is missing."""
    raise error


prepare = functools.partial(start, "agcnn_jax.prepare")
train = functools.partial(start, "agcnn_jax.train")
evaluate = functools.partial(start, "agcnn_jax.eval")
check = functools.partial(start, "agcnn_jax.check.__main__")
predict = functools.partial(start, "agcnn_jax.predict")
export = functools.partial(start, "agcnn_jax.export")
experiments = functools.partial(start, "agcnn_jax.experiments.__main__")
