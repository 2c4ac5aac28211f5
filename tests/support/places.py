"""A place that programs must bear: no home, no UTF-8 locale, no terminal, private files."""

import os
import subprocess
import sys

from tests.support.programs import ROOT

FOLDER = "Ärzte und Forschung"
UMASK = 0o077


def run_there(*command, cwd, **variables):
    """Run a Python program as a user on a shared machine may have to, in the folder `cwd`.

    The home is none, instead of one that cannot be written, because root may write everywhere.
    """
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env={**environment, "HOME": "/dev/null", "LC_ALL": "C"},
        umask=UMASK,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
