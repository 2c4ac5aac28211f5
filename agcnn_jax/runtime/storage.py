"""Files that may lie in an object store (`gs://`, `s3://` ...) as well as on a disk."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
from collections.abc import Iterator
from typing import Any

import fsspec
from etils import epath

from agcnn_jax.runtime.errors import UserError

EXTRAS = {"gs": "gcs", "s3": "s3"}
"""The optional dependencies of this package that each kind of object store needs."""

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

_REMEDIES = {
    **dict.fromkeys(DISK_FULL, "free some space"),
    errno.EACCES: "make it writable",
    errno.EPERM: "make it writable",
    errno.EROFS: "make it writable",
}
REACHABLE = "check the address, your permission and the network, and run the same command again"
"""What to do when an object store does not answer as it should."""

_MESSAGE_LENGTH = 200

_TENSORSTORE_CODE = re.compile(r"\[os_error_code='(\d+)'\]")
"""How TensorStore, which raises a `ValueError` for everything, gives what the system said."""

_ANNOTATIONS = re.compile(r"\s\[\w[\w ]*=['\"].*", re.DOTALL)
"""What it puts behind that, such as the whole specification of an array."""


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Tell whether a path is of an object store rather than of a mounted file system."""
    return "://" in os.fspath(path)


def absolute(path: str | os.PathLike[str]) -> epath.Path:
    """Return a path that means the same in every working directory.

    Raises:
        UserError: if it is of a kind of object store that is not known.
    """
    name = os.fspath(path)
    if not is_remote(name):
        return epath.Path(name).resolve()
    _set_up_clients()
    _, _, rest = name.partition("://")
    bucket = rest.split("/")[0]
    try:
        remote = epath.Path(name.rstrip("/"))
    except KeyError:
        remote = None
    if remote is None or not bucket:
        raise UserError(f"{name} names no place that can be read; use a folder or gs://BUCKET/PATH")
    # `Path.resolve` of etils 1.15 would make of gs://bucket a folder of the working directory.
    return remote


def _set_up_clients() -> None:
    for scheme in EXTRAS:
        # They remember listings, but the checkpoints, other hosts and whoever evaluates a run
        # under way write past this process's memory.
        fsspec.config.conf.setdefault(scheme, {}).setdefault("use_listings_cache", False)
    for name in ("fsspec", "gcsfs", "s3fs", "google.auth"):
        # What they log, with a traceback, they raise as well.
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def checkpoint_place(path: str | os.PathLike[str]) -> epath.Path:
    """Return a workdir as an absolute path.

    Raises:
        UserError: if checkpoints cannot lie there.
    """
    place = absolute(path)
    if is_remote(place) and not os.fspath(place).startswith("gs://"):
        # Orbax 0.12 opens anything but gs:// as a file of a disk.
        raise UserError(
            f"--workdir {path}: checkpoints can lie on a disk or in gs:// only; use one of these, "
            "or mount the bucket and name the folder"
        )
    return place


@contextlib.contextmanager
def reported(path: str | os.PathLike[str], done: str, remedy: str | None = None) -> Iterator[None]:
    """Turn what goes wrong with a file into one line.

    Args:
        path: what the block reads or writes.
        done: what cannot be done with it, such as "written".
        remedy: what the user can do; by default, how to make it writable and to go on.

    Raises:
        UserError: instead of an `OSError`, of an exception of TensorStore with the system's error
            number and, for a remote path, of any exception: the clients of object stores have no
            common class for theirs.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not (isinstance(error, OSError) or error_number(error) or is_remote(path)):
            raise
        raise UserError(
            f"{os.fspath(path)} cannot be {done}: {reason(path, error)}; "
            f"{remedy or advice(path, error)}"
        ) from error


def reason(path: str | os.PathLike[str], error: BaseException) -> str:
    """Say in a few words why a file cannot be had."""
    scheme = os.fspath(path).partition("://")[0]
    if isinstance(error, ImportError) and is_remote(path):
        package = f"agcnn-jax[{EXTRAS[scheme]}]" if scheme in EXTRAS else f"fsspec[{scheme}]"
        return f"{scheme}:// needs pip install '{package}'"
    number = error_number(error)
    said = getattr(error, "strerror", None) or (os.strerror(number) if number else str(error))
    text = " ".join(_ANNOTATIONS.sub("", said).split()) or type(error).__name__
    if isinstance(error, FileNotFoundError) and is_remote(path):
        text = f"not found ({text})"
    if len(text) > _MESSAGE_LENGTH:
        # Clients begin with what they were doing and end with what went wrong.
        text = f"{text[: _MESSAGE_LENGTH // 2]} ... {text[-_MESSAGE_LENGTH // 2 :]}"
    return text


def error_number(error: BaseException) -> int | None:
    """Return the system's number of an error (`errno`); None if it has none."""
    number = getattr(error, "errno", None)
    if number is None and (found := _TENSORSTORE_CODE.search(str(error))):
        number = int(found[1])
    return number


def advice(path: str | os.PathLike[str], error: BaseException) -> str:
    """Say what the user can do about a file that cannot be written."""
    if is_remote(path):
        return REACHABLE
    known = _REMEDIES.get(error_number(error) or 0, "see that it can be written")
    return f"{known} and run the same command again"


def exists(path: epath.Path, remedy: str | None = None) -> bool:
    """Whether a file or folder is there; `UserError` if that cannot be found out."""
    with reported(path, "read", remedy):
        return path.exists()


def delete(path: epath.Path) -> None:
    """Delete a file; `UserError` if that cannot be done."""
    with reported(path, "deleted"):
        path.unlink()


def write_bytes(path: epath.Path, content: bytes) -> None:
    """Write a file that is either whole or, as before, the old one or none; make its folder.

    Raises:
        OSError: or, for a remote path, whatever the client of that store raises.
    """
    if is_remote(path):
        # An object appears when all of it has been received, and folders need no making.
        path.write_bytes(content)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{path.name}.tmp"
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(
    path: epath.Path, value: Any, remedy: str | None = None, indent: int | None = 2
) -> None:
    """Write a JSON file that is either whole or not there; `UserError` if that cannot be done."""
    with reported(path, "written", remedy):
        write_bytes(path, (json.dumps(value, indent=indent) + "\n").encode())


def create_json(path: epath.Path, value: Any) -> bool:
    """Write a JSON file unless it exists, and return True if it was written; make its folder.

    Of several processes, one creates a file on a disk. An object store replaces what is there.
    """
    content = json.dumps(value, indent=2) + "\n"
    if is_remote(path):
        path.write_text(content)
        return True
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = open(path, "x")  # noqa: SIM115
    except FileExistsError:
        return False
    try:
        with file:
            file.write(content)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return True


def read_json(path: epath.Path, remedy: str = "choose another --workdir") -> dict[str, Any]:
    """Read a JSON object; `UserError` with the remedy if the file holds none."""
    with reported(path, "read", remedy):
        text = path.read_bytes()
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); {remedy}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged; {remedy}")
    return value
