"""How programs end: user errors as one line on stderr, and the exit statuses."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from absl import logging

from agcnn_jax.runtime.paths import expanded_path
from agcnn_jax.runtime.progress import write_line

USAGE_STATUS = 2
"""An error that running the same command again does not fix."""

TEMPORARY_STATUS = 75
"""Stopped from outside; the same command continues. EX_TEMPFAIL in BSD's sysexits.h."""

INTERRUPTED_STATUS = 130
"""Ctrl-C, as shells report it."""

INTERRUPTED = "interrupted; run the same command again to continue"
NOTHING_SAVED = "stopped by SIGTERM, with nothing to save; run the same command again to continue"


class UserError(Exception):
    """A user error; its message names the file, option or value and the remedy."""


class Stopped(Exception):
    """Stopped from outside, for example by SIGTERM; the same command continues."""


class OneLineParser(argparse.ArgumentParser):
    """An `ArgumentParser` with errors in one line, without the usage, and `~` in paths."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.register("type", Path, expanded_path)

    def error(self, message: str) -> NoReturn:
        """Raise `UserError`, so that all user errors end alike."""
        raise UserError(f"{message} (see --help)")


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run `main` and exit with its status.

    Exits with 0 on success, also if `main` returns None, 2 on `UserError`, 75 on `Stopped` and 130
    on Ctrl-C. Any other exception is a bug and keeps its traceback.
    """
    # Users cannot act on the warnings of libraries.
    logging.set_verbosity(logging.ERROR)
    try:
        status = main() or 0
    except UserError as error:
        say(f"error: {error}")
        status = USAGE_STATUS
    except Stopped as stopped:
        say(str(stopped))
        status = TEMPORARY_STATUS
    except KeyboardInterrupt as interrupt:
        if sys.stderr is not None and sys.stderr.isatty():
            write_line("", sys.stderr)  # below the terminal's ^C
        say(str(interrupt) or INTERRUPTED)
        status = INTERRUPTED_STATUS
    sys.exit(status)


def say(message: str) -> None:
    """Print the program's name and a message on one line of stderr."""
    path = Path(sys.argv[0])
    program = path.parent.name if path.name == "__main__.py" else path.name
    write_line(f"{program}: {' '.join(message.split())}", sys.stderr)
