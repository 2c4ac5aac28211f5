"""Disks that fill up or become read-only: mounts that only programs started on them can see.

`python tests/support/disks.py PROGRAM ...` runs a Python program with the disk that the environment
names; see `Disk.variables`.
"""

import errno
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_HOLD = 'mount -t tmpfs -o "$1" tmpfs "$0" && echo mounted && exec cat'
"""A shell command that mounts a disk and ends with its input."""

WITH_DISK = (ROOT / "tests/support/disks.py",)
"""Put this before a program and its arguments."""

_VARIABLE = "AGCNN_JAX_TEST_DISK_OF"
_ENTER = ("nsenter", "--user", "--mount", "--preserve-credentials", "--wd", "--target")


class Disk:
    """A disk in memory that nothing else on the machine can see."""

    def __init__(self, folder, holder):
        self.path = folder
        # The path by which other processes reach the disk.
        self.outside = Path(f"/proc/{holder.pid}/root{folder}")
        self._holder = holder

    @property
    def variables(self):
        """Environment variables that show the disk to a program started with `WITH_DISK`."""
        return {_VARIABLE: str(self._holder.pid)}

    def fill(self, leave=0):
        """Fill the disk, and leave this many bytes free."""
        with open(self.outside / "filler", "wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(4096))
            except OSError as error:
                assert error.errno == errno.ENOSPC, error
            filler.truncate(max(filler.tell() - leave, 0))

    def make_room(self):
        """Delete what `fill` wrote."""
        (self.outside / "filler").unlink()

    def forbid_writing(self, folder):
        """Make one of its folders read-only, even while files in it are open."""
        self._do("mount", "--bind", folder, folder)
        self._do("mount", "-o", "remount,bind,ro", folder)

    def allow_writing(self, folder):
        """Undo `forbid_writing`."""
        self._do("umount", folder)

    def _do(self, *command):
        subprocess.run([*_ENTER, str(self._holder.pid), *command], check=True)


@contextmanager
def mounted(folder, size="64m"):
    """Mount a disk of a given size at a folder; skip the test where that is not permitted."""
    unshare = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", _HOLD)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        holder = subprocess.Popen(
            [*unshare, folder, f"size={size}"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    except FileNotFoundError:
        pytest.skip("unshare of util-linux is not here")
    with holder:
        try:
            if holder.stdout.readline() != "mounted\n":
                pytest.skip(f"no mounts are permitted here: {holder.stderr.read().strip()}")
            yield Disk(folder, holder)
        finally:
            holder.stdin.close()


if __name__ == "__main__":
    command = [sys.executable, *sys.argv[1:]]
    if _VARIABLE in os.environ:
        command = [*_ENTER, os.environ[_VARIABLE], *command]
    os.execvp(command[0], command)
