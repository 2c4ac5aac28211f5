"""One run at a time in a `--data_dir`."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from agcnn_jax.runtime.errors import UserError
from data_prep.nih.plans import NAME, SCRATCH, VERSION


@contextlib.contextmanager
def lock_data_dir(data_dir: Path) -> Iterator[None]:
    """Hold the scratch folder of `data_dir` for this process alone."""
    try:
        str(data_dir.absolute()).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"--data_dir {data_dir}: the name is not UTF-8, as ArrayRecord needs; choose another"
        ) from None
    scratch = data_dir / SCRATCH
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
                f"--data_dir {data_dir}: another run is preparing it; wait for that one to end"
            ) from None
        for leftover in (data_dir / NAME).glob(f"*incomplete*{VERSION}"):
            shutil.rmtree(leftover)  # of a run that was killed while publishing
        try:
            yield
        except OSError as error:
            raise UserError(
                f"--data_dir {data_dir}: {error.strerror} ({error.filename}); make room or choose "
                "another folder and rerun, what is done is kept"
            ) from None
        finally:
            if scratch.exists() and os.listdir(scratch) == ["lock"]:
                shutil.rmtree(scratch)
