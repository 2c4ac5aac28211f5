"""Checkpoints that cannot be written or read, in one line."""

from __future__ import annotations

import contextlib
import errno
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from etils import epath

from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.storage import advice, error_number, is_remote, reason


def quieten() -> None:
    """Keep tracebacks off stderr of what a save that fails in the background also raises."""
    # Every thread and event loop of orbax (0.12) logs the same error once more.
    logging.getLogger("absl").addFilter(_is_not_of_orbax)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL + 1)
    # Of what it no longer does after the error.
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    if sys.unraisablehook is not _unraisable:
        _others.append(sys.unraisablehook)
        sys.unraisablehook = _unraisable


_others: list[Callable[[sys.UnraisableHookArgs], object]] = []


def _unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """Pass over arrays whose writing ends after the event loop that an error has closed."""
    if str(unraisable.exc_value) != "Event loop is closed":
        _others[-1](unraisable)


def _is_not_of_orbax(record: logging.LogRecord) -> bool:
    return "/orbax/" not in record.pathname


@contextmanager
def written(directory: epath.PathLike) -> Iterator[None]:
    """Turn a checkpoint that cannot be written into one line; the ones before it stay whole."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # The clients of object stores have no common class for their errors; TensorStore raises
        # `ValueError` for those of the system.
        if error_number(error) is None and not is_remote(directory):
            raise
        raise UserError(
            f"no checkpoint can be written to {directory}: {reason(directory, error)}; those "
            f"before are whole: {advice(directory, error)}"
        ) from error


@contextmanager
def intact(directory: epath.PathLike, step: int | None = None) -> Iterator[None]:
    """Turn a checkpoint that cannot be read into one line.

    Args:
        directory: of a stage's checkpoints.
        step: which one is read; None where what all of them scored is.
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
        remedy = train_again(folder.parent)
        what, state = f"checkpoint {folder / str(step)}", "is damaged or incomplete"
        if step is None:
            what = f"a checkpoint in {folder}"
        if is_remote(directory):
            state = "cannot be read"
            remedy = f"check your permission and the network, or, if it is damaged, {remedy}"
        elif number not in (None, errno.ENOENT):
            state, remedy = "cannot be read", "see that it can be and run the same command again"
        raise UserError(f"{what} {state} ({reason(directory, error)}); {remedy}") from error


def train_again(stage: epath.Path) -> str:
    """Say how to train a stage again, and with it all later ones, which were trained from it.

    Args:
        stage: its folder, beside those of the other stages.
    """
    later: list[str] = []
    # What is wrong with this stage is worth more than what may be wrong with listing folders.
    with contextlib.suppress(Exception):
        names = sorted(path.name for path in stage.parent.iterdir())
        later = [name for name in names if name[:1].isdigit() and name > stage.name]
    others = f" and, beside it, {' and '.join(later)}" if later else ""
    return f"delete {stage}{others} and run the train.py command again"
