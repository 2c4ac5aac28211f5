"""Running the repository's programs as a user does."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run(*arguments, cwd=None, check=True, **options):
    """Run one of the repository's programs as a user does."""
    done = subprocess.run(
        [sys.executable, *[str(argument) for argument in arguments]],
        cwd=cwd or ROOT,
        capture_output=True,
        text=True,
        check=False,
        **options,
    )
    if check:
        assert done.returncode == 0, done.stderr
    return done
