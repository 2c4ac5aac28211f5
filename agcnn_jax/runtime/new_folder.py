"""A new folder on the disk, which is there as a whole or not at all."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.storage import reported


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
    try:
        shutil.rmtree(scratch, ignore_errors=True)  # left by a killed process
        scratch.mkdir(parents=True)
        yield scratch
        if out.exists():
            out.rmdir()
        scratch.rename(out)
    except OSError as error:
        raise UserError(
            f"--out {out} cannot be written ({error.strerror or error}); choose another folder"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
