"""A lock on `--data_dir`, so that only one process prepares it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from agcnn_jax.data_prep.prepare.plans import VERSION
from agcnn_jax.runtime.errors import UserError


@contextlib.contextmanager
def lock_data_dir(data_dir: Path, name: str, scratch: Path) -> Iterator[None]:
    """Create the scratch folder in `data_dir` and lock it for this process.

    If nothing else is in them at the end, both folders are removed.

    Args:
        data_dir: folder of the dataset.
        name: of the dataset.
        scratch: in `data_dir`.

    Raises:
        UserError: `data_dir` cannot be written, another process prepares it, or the disk is full.
    """
    try:
        str(data_dir.absolute()).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"--data_dir {data_dir}: the name is not UTF-8, which ArrayRecord needs; choose another"
        ) from None
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        lock = (scratch / "lock").open("w")
    except OSError as error:
        raise UserError(
            f"--data_dir {data_dir}: cannot write there ({error.strerror}); choose another folder"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"--data_dir {data_dir}: another process is preparing it; wait until it ends"
            ) from None
        for leftover in (data_dir / name).glob(f"*incomplete*{VERSION}"):
            shutil.rmtree(leftover)  # from a run that was killed while publishing
        try:
            yield
        except OSError as error:
            raise UserError(
                f"--data_dir {data_dir}: {error.strerror} ({error.filename}); free some space or "
                "choose another folder, then rerun to continue"
            ) from None
        finally:
            if scratch.exists() and os.listdir(scratch) == ["lock"]:
                shutil.rmtree(scratch)
            with contextlib.suppress(OSError):  # it holds something
                data_dir.rmdir()
