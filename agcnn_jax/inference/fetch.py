"""Films in a bucket, fetched so many at once that their latency does not count."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterable

import fsspec

from agcnn_jax.data.pixels import MAX_BYTES
from agcnn_jax.inference.films import Fetched, Unread
from agcnn_jax.runtime.ahead import ahead
from agcnn_jax.runtime.errors import Stopped
from agcnn_jax.runtime.storage import REQUESTS, absolute, is_passing, is_remote, reason

_NO_BYTES = 416
"""Status of HTTP for a range of an empty object."""


def at_once(workers: int) -> int:
    """Return how many films to fetch at once for so many processes that decode.

    A film takes a process a hundredth of a second, and a request some hundredths. All these films
    are in memory at the same time.
    """
    return min(max(16, 4 * workers), REQUESTS)


def fetched(paths: Iterable[str], requests: int) -> Generator[Fetched, None, None]:
    """Yield films in order, while threads fetch the next ones; paths on the disk stay as they are.

    Raises:
        Stopped: a bucket fails, so that its films can neither be read nor refused.
    """
    return ahead(_fetch, paths, requests)


def _fetch(path: str) -> Fetched:
    if not is_remote(path):
        return path
    try:
        with contextlib.suppress(FileNotFoundError):
            store, name = fsspec.core.url_to_fs(os.fspath(absolute(path)))
            content: bytes = store.cat_file(name, start=0, end=MAX_BYTES + 1)
            return content
        return Unread("No such file or directory")
    except Exception as error:
        if getattr(error, "code", None) == _NO_BYTES:
            return b""
        if is_passing(error):
            raise Stopped(
                f"{path} cannot be read: {reason(path, error)}; run the same command again to "
                f"continue"
            ) from error
        return Unread(reason(path, error))
