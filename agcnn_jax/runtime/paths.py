"""Paths as users write them."""

from __future__ import annotations

import os
from pathlib import Path


def expand(path: str | os.PathLike[str]) -> str:
    """Return a path with the home folder for a leading `~` or `~name`, as a shell writes it.

    A shell does not expand `--data_dir=~/x`. Paths in an object store stay as they are, and so does
    `~name` if there is no such user.
    """
    return os.path.expanduser(os.fspath(path))


def expanded_path(path: str | os.PathLike[str]) -> Path:
    """Return a path on the disk; see `expand`."""
    return Path(expand(path))
