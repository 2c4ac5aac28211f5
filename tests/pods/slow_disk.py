"""A program on a slow disk: python tests/pods/slow_disk.py PROGRAM ...

Whatever Python does with a name in the folder `SLOW_FOLDER` (to open, list, make, rename or delete
it) waits first, in every thread. TensorStore, which writes the arrays of checkpoints, does not come
by here; the files and folders around them, and the rename that completes a checkpoint, do.
"""

import os
import runpy
import sys
import time

DELAY = 0.2
"""Seconds; local disks take a thousandth, and shared ones under load as long as this."""

VARIABLE = "SLOW_FOLDER"
SLOW = (__file__,)
"""Put this before a program and its arguments."""

_EVENTS = {"open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}


def delay(folder):
    """Slow down what this process does in a folder, from now on."""

    def hook(event, arguments):
        if event in _EVENTS and str(arguments[0]).startswith(folder):
            time.sleep(DELAY)

    sys.addaudithook(hook)


if __name__ == "__main__":
    delay(os.environ[VARIABLE])
    del sys.argv[0]
    sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
    runpy.run_path(sys.argv[0], run_name="__main__")
