"""Checkpoints that cannot be read or written: one line says so."""

from __future__ import annotations

import contextlib
import errno
import logging
import sys
import warnings
from collections.abc import Iterator

from etils import epath

from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.storage import error_number, is_remote, reason


@contextlib.contextmanager
def report_unreadable(directory: epath.Path, step: int | None = None) -> Iterator[None]:
    """Turn an error from reading a stage's checkpoint, or by default all scores, into one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        number, remote = error_number(error), is_remote(directory)
        damaged = isinstance(error, ValueError | KeyError) and number is None
        unreadable = step is not None and (isinstance(error, OSError) or number or remote)
        if not (damaged or unreadable):
            raise
        what = f"a checkpoint in {directory}" if step is None else f"checkpoint {directory}/{step}"
        state, remedy = "is damaged or incomplete", train_again(directory.parent)
        if remote or number not in (None, errno.ENOENT):
            state = "cannot be read"
            remedy = f"check your permission and the network, or, if it is damaged, {remedy}"
        raise UserError(f"{what} {state} ({reason(directory, error)}); {remedy}") from error


def train_again(stage: epath.Path) -> str:
    """Say how to train a stage and all later ones again, given the folder of the stage."""
    later: list[str] = []
    # The caller reports an error already; one from listing folders would hide it.
    with contextlib.suppress(Exception):
        names = sorted(path.name for path in stage.parent.iterdir())
        later = [name for name in names if name[:1].isdigit() and name > stage.name]
    others = f" and, beside it, {' and '.join(later)}" if later else ""
    return f"delete {stage}{others} and run the train.py command again"


def silence_background_errors() -> None:
    """Keep off stderr what a save that failed in the background logs besides raising it."""
    # Every thread and event loop of orbax (0.12) logs the error once more.
    logging.getLogger("absl").addFilter(_is_not_orbax)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL + 1)
    # After the error, some coroutines never start and some arrays outlive the event loop.
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    sys.unraisablehook = _unraisable_hook


def _is_not_orbax(record: logging.LogRecord) -> bool:
    return "/orbax/" not in record.pathname


def _unraisable_hook(unraisable: sys.UnraisableHookArgs) -> None:
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)
