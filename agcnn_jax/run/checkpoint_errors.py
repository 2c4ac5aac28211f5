"""Checkpoints that cannot be written or read, reported in one line."""

from __future__ import annotations

import contextlib
import errno
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from etils import epath

from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.storage import advice, error_number, is_remote, reason

_previous_hook = sys.unraisablehook


def silence_background_errors() -> None:
    """Keep off stderr what a save that failed in the background logs besides raising it."""
    # Every thread and event loop of orbax (0.12) logs the error once more.
    logging.getLogger("absl").addFilter(_is_not_orbax)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL + 1)
    # After the error, coroutines stay unstarted and arrays outlive the event loop.
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    sys.unraisablehook = _unraisable_hook


def _is_not_orbax(record: logging.LogRecord) -> bool:
    return "/orbax/" not in record.pathname


def _unraisable_hook(unraisable: sys.UnraisableHookArgs) -> None:
    if str(unraisable.exc_value) != "Event loop is closed":
        _previous_hook(unraisable)


@contextmanager
def report_unwritable(directory: epath.PathLike) -> Iterator[None]:
    """Turn a checkpoint that cannot be written into a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # Clients of object stores have no common class of errors, and TensorStore raises a
        # `ValueError` for those of the system.
        if error_number(error) is None and not is_remote(directory):
            raise
        raise UserError(
            f"no checkpoint can be written to {directory}: {reason(directory, error)}; earlier "
            f"ones are complete: {advice(directory, error)}"
        ) from error


@contextmanager
def report_unreadable(directory: epath.PathLike, step: int | None = None) -> Iterator[None]:
    """Turn a checkpoint that cannot be read into a `UserError`.

    Args:
        directory: a stage's checkpoints.
        step: of the checkpoint; None while the scores of all are read.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        number, folder = error_number(error), epath.Path(directory)
        damaged = isinstance(error, ValueError | KeyError) and number is None
        if step is None and not damaged:
            raise
        if not (damaged or isinstance(error, OSError) or number or is_remote(directory)):
            raise
        state, remedy = "is damaged or incomplete", train_again(folder.parent)
        if is_remote(directory):
            state = "cannot be read"
            remedy = f"check your permission and the network, or, if it is damaged, {remedy}"
        elif number not in (None, errno.ENOENT):
            state, remedy = "cannot be read", "make it readable and run the same command again"
        what = f"a checkpoint in {folder}" if step is None else f"checkpoint {folder}/{step}"
        raise UserError(f"{what} {state} ({reason(directory, error)}); {remedy}") from error


def train_again(stage: epath.Path) -> str:
    """Say how to train a stage again, and all later ones, which started from its weights.

    Args:
        stage: its folder, beside the folders of the other stages.
    """
    later: list[str] = []
    # The caller reports an error already; another one from listing the folders would hide it.
    with contextlib.suppress(Exception):
        names = sorted(path.name for path in stage.parent.iterdir())
        later = [name for name in names if name[:1].isdigit() and name > stage.name]
    others = f" and, beside it, {' and '.join(later)}" if later else ""
    return f"delete {stage}{others} and run the train.py command again"
