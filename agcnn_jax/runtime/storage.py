"""Files on a disk or in an object store (`gs://`, `s3://` ...)."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import fsspec
from etils import epath

from agcnn_jax.runtime.errors import UserError, packages_of, too_many_files
from agcnn_jax.runtime.paths import expand

EXTRAS = {"gs": "gcs", "s3": "s3"}
"""This package's optional dependency for each kind of object store."""

REQUESTS = 96
"""Requests to an object store that may wait at once; aiohttp has 100 connections."""

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

_PASSING = (errno.EIO, errno.ESTALE, errno.EBUSY, getattr(errno, "EREMOTEIO", errno.EIO))
"""The last two are what s3fs makes of the statuses 503 and 500."""

_CLIENTS = ("aiohttp", "botocore", "requests", "urllib3")
"""Packages whose own exceptions say that a request failed on its way; gcsfs raises those of two."""

_REMEDIES = {
    **dict.fromkeys(DISK_FULL, "free some space"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "make it writable"),
}
REACHABLE = "check the address, your permission and the network, and run the same command again"
"""What to do if an object store fails."""

_MESSAGE_LENGTH = 200

_TENSORSTORE_CODE = re.compile(r"\[os_error_code='(\d+)'\]")
"""How TensorStore, which always raises `ValueError`, gives the system's error number."""

_ANNOTATIONS = re.compile(r"\s\[\w[\w ]*=['\"].*", re.DOTALL)
"""What TensorStore appends to a message, such as the specification of an array."""


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Return True for a path in an object store, False in a mounted file system."""
    return "://" in os.fspath(path)


def absolute(path: str | os.PathLike[str]) -> epath.Path:
    """Return a path that does not depend on the working directory or `~`; set up its client.

    Raises:
        UserError: if the kind of object store is unknown.
    """
    name = expand(path)
    if not is_remote(name):
        return epath.Path(name).resolve()
    for scheme in EXTRAS:
        # The clients cache listings, but other processes and TensorStore write without them.
        fsspec.config.conf.setdefault(scheme, {}).setdefault("use_listings_cache", False)
    # botocore has 10 connections unless told otherwise.
    fsspec.config.conf["s3"].setdefault("config_kwargs", {"max_pool_connections": REQUESTS})
    for logger in ("fsspec", "gcsfs", "s3fs", "google.auth"):
        # They also raise what they log with a traceback.
        logging.getLogger(logger).setLevel(logging.CRITICAL + 1)
    bucket = name.partition("://")[2].split("/")[0]
    # Unlike `Path.resolve` of etils 1.15, this leaves gs://bucket outside the working directory.
    with contextlib.suppress(KeyError):
        if bucket:
            return epath.Path(name.rstrip("/"))
    raise UserError(f"{name} is not a path that can be read; use a folder or gs://BUCKET/PATH")


def checkpoint_place(path: str | os.PathLike[str]) -> epath.Path:
    """Return a workdir as an absolute path; `UserError` if checkpoints cannot lie there."""
    place = absolute(path)
    if is_remote(place) and not os.fspath(place).startswith("gs://"):
        # Orbax 0.12 treats every path without gs:// as a file on a disk.
        raise UserError(
            f"--workdir {path}: checkpoints can only lie on a disk or in gs://; use one of these, "
            "or mount the bucket and give the folder"
        )
    return place


@contextlib.contextmanager
def reported(path: str | os.PathLike[str], done: str, remedy: str | None = None) -> Iterator[None]:
    """Turn a failure with a file into one line: it "cannot be `done`", and the remedy.

    The remedy is by default how to make the file writable and continue.

    Raises:
        UserError: instead of an `OSError`, an exception of TensorStore with the system's error
            number or, for a remote path, any exception, since the clients of object stores share
            no class of exceptions.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not (isinstance(error, OSError) or error_number(error) or is_remote(path)):
            raise
        if message := too_many_files(error_number(error)):
            raise UserError(message) from error
        raise UserError(
            f"{os.fspath(path)} cannot be {done}: {reason(path, error)}; "
            f"{remedy or advice(path, error)}"
        ) from error


def reason(path: str | os.PathLike[str], error: BaseException) -> str:
    """Say in a few words why a file cannot be accessed."""
    scheme = os.fspath(path).partition("://")[0]
    if isinstance(error, ImportError) and is_remote(path):
        packages = packages_of(EXTRAS[scheme]) if scheme in EXTRAS else f"fsspec[{scheme}]"
        return f"{scheme}:// needs {packages}"
    number = error_number(error)
    message = getattr(error, "strerror", None) or (os.strerror(number) if number else str(error))
    text = " ".join(_ANNOTATIONS.sub("", message).split()) or type(error).__name__
    if isinstance(error, FileNotFoundError) and is_remote(path):
        text = f"not found ({text})"
    if len(text) > _MESSAGE_LENGTH:
        # Clients say first what they were doing and last what went wrong.
        text = f"{text[: _MESSAGE_LENGTH // 2]} ... {text[-_MESSAGE_LENGTH // 2 :]}"
    return text


def error_number(error: BaseException) -> int | None:
    """Return the system's number of an error (`errno`), or None."""
    number = getattr(error, "errno", None)
    code = _TENSORSTORE_CODE.search(str(error))
    return int(code[1]) if number is None and code else number


def is_passing(error: BaseException | None) -> bool:
    """Return True if the same request may succeed later: a store or a network that fails."""
    code = getattr(error, "code", None)
    if isinstance(code, int):  # a status of HTTP
        return code >= 500 or code in (408, 429)
    if error is not None and error_number(error) in _PASSING:
        return True
    module = type(error).__module__.partition(".")[0]
    return isinstance(error, ConnectionError | TimeoutError) or module in _CLIENTS


def advice(path: str | os.PathLike[str], error: BaseException) -> str:
    """Say what the user can do about a file that cannot be written."""
    if is_remote(path):
        return REACHABLE
    remedy = _REMEDIES.get(error_number(error) or 0, "make sure that it can be written")
    return f"{remedy} and run the same command again"


def exists(path: epath.Path, remedy: str | None = None) -> bool:
    """Return True if a file or folder exists; `UserError` if that cannot be determined."""
    with reported(path, "read", remedy):
        return path.exists()


def delete(path: epath.Path) -> None:
    """Delete a file; `UserError` if that fails."""
    with reported(path, "deleted"):
        path.unlink()


def write_bytes(path: epath.Path, content: bytes, unique: bool = False) -> None:
    """Write a file atomically and create its folder; `reported` names what this raises.

    Several processes may write a file at once if each has a `unique` temporary one.
    """
    if is_remote(path):
        # An object appears once it is complete, and needs no folder.
        path.write_bytes(content)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    mark = f".{uuid.uuid4().hex[:8]}" if unique else ""
    temporary = path.parent / f"{path.name}{mark}.tmp"
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def open_to_read(path: epath.Path) -> Iterator[IO[bytes]]:
    """Open a file to be read from its beginning to its end; `UserError` if that fails."""
    with reported(path, "read"), _client(path).open(os.fspath(path), "rb") as file:
        yield file


@contextlib.contextmanager
def replacing(path: epath.Path) -> Iterator[IO[bytes]]:
    """Yield a file that becomes `path` if the block succeeds; `UserError` if that fails.

    It may be larger than the memory.
    """
    remote = is_remote(path)
    with reported(path, "written"):
        if not remote:
            path.parent.mkdir(parents=True, exist_ok=True)
        written = path if remote else path.parent / f"{path.name}.{uuid.uuid4().hex[:8]}.tmp"
        file = _client(path).open(
            os.fspath(written), "wb", **({"autocommit": False} if remote else {})
        )
        try:
            yield file
            file.close()
        except BaseException:
            with contextlib.suppress(Exception):  # the other failure is on its way
                if remote:
                    file.discard()
                else:
                    written.unlink()
                    file.close()  # fails again if the disk is full
            raise
        if remote:
            file.commit()
        else:
            os.replace(written, path)


def _client(path: epath.Path) -> Any:
    return fsspec.core.url_to_fs(os.fspath(path))[0]


def upload(folder: Path, target: epath.Path) -> None:
    """Copy the files of a folder to the same places under `target`; `UserError` if that fails."""
    with reported(target, "written"):
        for path in filter(Path.is_file, folder.rglob("*")):
            write_bytes(target / path.relative_to(folder).as_posix(), path.read_bytes())


def write_json(
    path: epath.Path, value: Any, remedy: str | None = None, indent: int | None = 2
) -> None:
    """Write a JSON file atomically; `UserError` if that fails."""
    with reported(path, "written", remedy):
        write_bytes(path, (json.dumps(value, indent=indent) + "\n").encode())


def create_json(path: epath.Path, value: Any) -> bool:
    """Create a JSON file and its folder; return False if the file exists.

    Only one of several processes creates a file on a disk. An object store replaces it.
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
    """Read a JSON object; `UserError` if there is none in the file."""
    with reported(path, "read", remedy):
        content = path.read_bytes()
    return parse_json(content, path, remedy)


def parse_json(content: bytes, path: str | os.PathLike[str], remedy: str) -> dict[str, Any]:
    """Parse a JSON object, the content of a file; `UserError` if it is none."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{os.fspath(path)} cannot be read ({error}); {remedy}") from error
    if not isinstance(value, dict):
        raise UserError(f"{os.fspath(path)} is damaged; {remedy}")
    return value


def check_new(out: Path | epath.Path) -> None:
    """Raise `UserError` unless the folder of `--out` is missing or empty."""
    with reported(out, "read"):
        used = out.exists() and (not out.is_dir() or any(out.iterdir()))
    if used:
        raise UserError(f"--out {out} is not empty; choose a new folder, or delete it first")


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a folder beside `out` that becomes `out` if the block succeeds, and else is removed.

    Raises:
        UserError: if `out` holds files or cannot be written.
    """
    check_new(out)
    scratch = out.absolute().with_name(f".{out.name}.incomplete")
    with reported(f"--out {out}", "written", "choose another folder"):
        shutil.rmtree(scratch, ignore_errors=True)  # left by a killed process
        try:
            scratch.mkdir(parents=True)
            yield scratch
            if out.exists():
                out.rmdir()
            scratch.rename(out)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
