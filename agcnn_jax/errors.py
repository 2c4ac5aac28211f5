"""How a user's mistake ends: one line on stderr, exit status 2, no traceback."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from absl import logging

USAGE_STATUS = 2
INTERRUPTED_STATUS = 130


class UserError(Exception):
    """A user's mistake; its message names the file, option or value and the remedy."""


class OneLineParser(argparse.ArgumentParser):
    """An `ArgumentParser` whose errors are one line instead of the usage and a line."""

    def error(self, message: str) -> NoReturn:
        """Raise `UserError` so that every mistake takes the same way out."""
        raise UserError(f"{message} (see --help)")


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run `main` and leave the process with its status.

    Status 0 on success, 2 on `UserError`, 130 on Ctrl-C, as shells count it. Any other exception
    is a defect of ours and keeps its traceback.

    Args:
        main: the program; returns an exit status or None for 0.
    """
    # Libraries' own warnings are not for the person at the command line.
    logging.set_verbosity(logging.ERROR)
    program = sys.argv[0].rsplit("/", 1)[-1]
    try:
        status = main() or 0
    except UserError as error:
        message = " ".join(str(error).split())
        print(f"{program}: error: {message}", file=sys.stderr)
        status = USAGE_STATUS
    except KeyboardInterrupt as interrupt:
        note = str(interrupt) or "interrupted; run the same command again to continue"
        print(f"\n{program}: {note}", file=sys.stderr)
        status = INTERRUPTED_STATUS
    sys.exit(status)
