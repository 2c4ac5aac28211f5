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


def user_cache() -> Path:
    """Return the folder of this user's caches: `$XDG_CACHE_HOME`, by default `~/.cache`.

    Raises:
        RuntimeError: if the user has no home.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute()


def expanded_path(path: str | os.PathLike[str]) -> Path:
    """Return a path on the disk; see `expand`."""
    return Path(expand(path))
