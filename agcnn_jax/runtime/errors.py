"""How programs end: a user's mistake in one line on stderr, and what each exit status means."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from absl import logging

USAGE_STATUS = 2
"""A mistake that running the same command again does not mend."""

TEMPORARY_STATUS = 75
"""Stopped from outside; the same command goes on. EX_TEMPFAIL of BSD's sysexits.h."""

INTERRUPTED_STATUS = 130
"""Ctrl-C, as shells count it."""

INTERRUPTED = "interrupted; run the same command again to continue"
NOTHING_SAVED = "stopped by SIGTERM, with nothing to save; run the same command again to continue"


class UserError(Exception):
    """A user's mistake; its message names the file, option or value and the remedy."""


class Stopped(Exception):
    """Stopped by something outside, such as SIGTERM; the same command goes on."""


class OneLineParser(argparse.ArgumentParser):
    """An `ArgumentParser` whose errors are one line instead of the usage and a line."""

    def error(self, message: str) -> NoReturn:
        """Raise `UserError` so that every mistake takes the same way out."""
        raise UserError(f"{message} (see --help)")


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run `main` and leave the process with its status.

    Status 0 on success, 2 on `UserError`, 75 on `Stopped`, 130 on Ctrl-C. Any other exception
    is a defect of ours and keeps its traceback.

    Args:
        main: the program; returns an exit status or None for 0.
    """
    # Libraries' own warnings are not for the person at the command line.
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
        print(file=sys.stderr)
        say(str(interrupt) or INTERRUPTED)
        status = INTERRUPTED_STATUS
    sys.exit(status)


def say(message: str) -> None:
    """Print a message on one line of stderr, after the program's name."""
    program = sys.argv[0].rsplit("/", 1)[-1]
    print(f"{program}: {' '.join(message.split())}", file=sys.stderr, flush=True)
