"""Copies a dataset from an object store to the disk that training reads it from."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
from etils import epath

from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.paths import user_cache
from agcnn_jax.runtime.progress import Progress, write_line
from agcnn_jax.runtime.storage import DISK_FULL, reported

CACHE_VARIABLE = "AGCNN_JAX_CACHE"
"""Environment variable that names the folder for copies."""

_REMEDY = f"free some space, or name another folder for copies with {CACHE_VARIABLE}"

IDENTIFYING = ("metadata.json", "dataset_info.json")
"""Files that tell one prepared dataset from another: fingerprint, digests, shards' lengths."""

AT_ONCE = 8
"""Number of files that are fetched together; an interrupted copy fetches as many again."""


def cache_folder() -> Path:
    """Return the folder for copies: `$AGCNN_JAX_CACHE`, or `agcnn_jax` in `user_cache`.

    Everything in it can be deleted.
    """
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser().absolute() if named else user_cache() / "agcnn_jax"


def mirror(directory: epath.Path) -> Path:
    """Return a local copy of a dataset's folder, made at the first call.

    Training reads records in random order with one small request each, for which object stores are
    slow. The content of two small files identifies a copy, wherever the dataset lies. One of the
    processes that share the cache copies and the others wait. An interrupted copy is continued.

    Raises:
        UserError: if the dataset cannot be read or the copy cannot be written.
    """
    cache = cache_folder()
    copy = cache / _digest(directory)
    with _writing(cache):
        if copy.is_dir():
            return copy
        cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / f"{copy.name}.lock"):
        if not copy.is_dir():  # Otherwise another process made it while this one waited.
            part = cache / f"{copy.name}.part"
            _fetch(directory, part)
            with _writing(copy):
                part.rename(copy)
    return copy


def _writing(path: Path) -> contextlib.AbstractContextManager[None]:
    return reported(path, "written", _REMEDY)


def _digest(directory: epath.Path) -> str:
    digest = hashlib.sha256()
    for name in IDENTIFYING:
        with reported(directory / name, "read"):
            digest.update((directory / name).read_bytes())
    return digest.hexdigest()[:32]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that the system releases when the process ends, however it ends."""
    with contextlib.ExitStack() as stack:
        with _writing(path):
            file = stack.enter_context(path.open("w"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                write_line("waiting for another process that copies the dataset", sys.stderr)
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(directory: epath.Path, part: Path) -> None:
    """Copy all files of a folder, except those that an interrupted copy completed."""
    with reported(directory, "read"):
        store, root = fsspec.core.url_to_fs(os.fspath(directory))
        files = [file for file in store.ls(root, detail=True) if file["type"] == "file"]
    with _writing(part):
        part.mkdir(exist_ok=True)
        missing = _incomplete(files, part)
        size, free = sum(file["size"] for file in missing), shutil.disk_usage(part).free
    if size > free:
        raise UserError(
            f"the copy of {directory} needs {size / 1e9:.1f} GB in {part.parent}, which has "
            f"{free / 1e9:.1f} GB free; {_REMEDY}"
        )
    write_line(f"copying {directory} to {part.parent}", sys.stderr)
    bar = Progress("copying", len(missing), "files")
    with reported(directory, "read"), bar:
        for start in range(0, len(missing), AT_ONCE):
            names = [file["name"] for file in missing[start : start + AT_ONCE]]
            # Some stores write a file out of order, so that an interrupted one has its full size.
            unfinished = [part / f"{Path(name).name}.unfinished" for name in names]
            try:
                store.get(names, [os.fspath(path) for path in unfinished])
            except OSError as error:
                if error.errno not in DISK_FULL:
                    raise
                with _writing(part):
                    raise
            with _writing(part):
                for path in unfinished:
                    path.rename(path.with_suffix(""))
            bar.update(len(unfinished))
    with _writing(part):
        # Left by an interrupted copy, and not overwritten since.
        for path in part.glob("*.unfinished"):
            path.unlink()
    if _incomplete(files, part):
        raise UserError(
            f"{directory} changed while it was copied; wait until it is complete and run the "
            "same command again"
        )


def _incomplete(files: list[dict[str, Any]], part: Path) -> list[dict[str, Any]]:
    there = {path.name: path.stat().st_size for path in part.iterdir()}
    return [file for file in files if there.get(Path(file["name"]).name) != file["size"]]
