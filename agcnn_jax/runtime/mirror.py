"""A dataset of an object store, copied to the disk that training reads it from."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from etils import epath
from tqdm import tqdm

from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.storage import reported

CACHE_VARIABLE = "AGCNN_JAX_CACHE"
"""Environment variable that names the folder for copies."""

IDENTIFYING = ("metadata.json", "dataset_info.json")
"""Files that tell one prepared dataset from another: fingerprint, digests, shards' lengths."""

_CHUNK = 8 << 20
_THREADS = 8


def cache_folder() -> Path:
    """Return where copies lie: `$AGCNN_JAX_CACHE`, or `agcnn_jax` in the user's cache folder.

    The latter is `$XDG_CACHE_HOME`, by default `~/.cache`. Whatever lies there can be deleted.
    """
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "agcnn_jax"


def mirror(directory: epath.Path) -> Path:
    """Return a local copy of a dataset's folder, made the first time.

    Records are read in random order, one small request each, for which object stores are slow.
    A copy is found again by the content of two small files, wherever the dataset lies; of several
    processes that share the cache, one copies and the others wait. A copy that was interrupted
    is continued.

    Args:
        directory: the folder that holds `metadata.json`, in an object store.

    Returns:
        The copy's folder, with the same files.

    Raises:
        UserError: if the dataset cannot be read, or the copy not be written.
    """
    cache = cache_folder()
    copy = cache / _digest(directory)
    with _writing(cache):
        if copy.is_dir():
            return copy
        cache.mkdir(parents=True, exist_ok=True)
    with _alone(cache / f"{copy.name}.lock"):
        if not copy.is_dir():  # else another process made it while this one waited
            part = cache / f"{copy.name}.part"
            _fetch(directory, part)
            with _writing(copy):
                part.rename(copy)
    return copy


def _writing(path: Path) -> contextlib.AbstractContextManager[None]:
    remedy = f"free some space, or name another folder for copies with {CACHE_VARIABLE}"
    return reported(path, "written", remedy)


def _digest(directory: epath.Path) -> str:
    digest = hashlib.sha256()
    for name in IDENTIFYING:
        with reported(directory / name, "read"):
            digest.update((directory / name).read_bytes())
    return digest.hexdigest()[:32]


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock that ends with the process, however that ends."""
    with contextlib.ExitStack() as stack:
        with _writing(path):
            file = stack.enter_context(path.open("w"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print("waiting for another process that copies the dataset", file=sys.stderr)
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(directory: epath.Path, part: Path) -> None:
    """Copy all files of a folder, leaving those that an interrupted copy completed."""
    with ThreadPoolExecutor(_THREADS) as threads:
        with reported(directory, "read"):
            sources = [path for path in directory.iterdir() if path.name != directory.name]
            stats = list(threads.map(lambda path: path.stat(), sources))
        sizes = {
            path: stat.length
            for path, stat in zip(sources, stats, strict=True)
            if not stat.is_directory
        }
        with _writing(part):
            part.mkdir(exist_ok=True)
            there = {path.name: path.stat().st_size for path in part.iterdir()}
        sizes = {path: size for path, size in sizes.items() if there.get(path.name) != size}
        missing, free = sum(sizes.values()), shutil.disk_usage(part).free
        if missing > free:
            raise UserError(
                f"the copy of {directory} needs {missing / 1e9:.1f} GB in {part.parent}, where "
                f"{free / 1e9:.1f} GB are free; free some, or name another folder for copies with "
                f"{CACHE_VARIABLE}"
            )
        with tqdm(
            total=missing,
            desc=f"copying {directory} to {part.parent}",
            unit="B",
            unit_scale=True,
            mininterval=0.1 if sys.stderr.isatty() else 10.0,
        ) as progress:
            stop = threading.Event()
            jobs = [
                threads.submit(_fetch_file, path, part / path.name, size, progress, stop)
                for path, size in sizes.items()
            ]
            try:
                for job in jobs:
                    job.result()
            finally:  # after Ctrl-C or a failure, nobody waits for the other files
                stop.set()


def _fetch_file(
    source: epath.Path, target: Path, size: int, progress: tqdm, stop: threading.Event
) -> None:
    temporary = target.with_name(f"{target.name}.tmp")
    with contextlib.ExitStack() as stack:
        with reported(source, "read"):
            reader = stack.enter_context(source.open("rb"))
        with _writing(target):
            writer = stack.enter_context(temporary.open("wb"))
        while not stop.is_set():
            with reported(source, "read"):
                chunk = reader.read(_CHUNK)
            if not chunk:
                break
            with _writing(target):
                writer.write(chunk)
            with progress.get_lock():
                progress.update(len(chunk))
    if stop.is_set():
        return
    with _writing(target):
        if temporary.stat().st_size != size:
            raise UserError(
                f"{source} changed while it was copied; wait until it is complete and run the "
                "same command again"
            )
        temporary.rename(target)
