"""The processes of a run: which one this is, what each knows, and failing together.

With one process, every function here only calls or returns what it is given.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from agcnn_jax.runtime.errors import UserError

Result = TypeVar("Result")


def is_primary() -> bool:
    """Whether this is the process that writes tables, figures and logs."""
    return jax.process_index() == 0


def process_share() -> tuple[int, int]:
    """This process's number and the number of processes, as the pipeline takes them."""
    return jax.process_index(), jax.process_count()


def exchange(value: Any) -> list[Any]:
    """Tell all processes something, and hear what they tell.

    Args:
        value: anything that JSON can hold.

    Returns:
        Every process's value, in the order of the processes.
    """
    if jax.process_count() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = np.asarray(multihost_utils.process_allgather(np.int32(len(text))))
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: len(text)] = text
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [json.loads(row[:length].tobytes()) for row, length in zip(rows, lengths, strict=True)]


def sync_call(function: Callable[[], Result]) -> Result:
    """Call a function in every process; if it refuses in one, it does in all.

    Without this, the others would wait for the one that stopped.

    Raises:
        UserError: that of the first process that raised one, naming the process if it is another.
    """
    message, result = None, None
    try:
        result = function()
    except UserError as error:
        if jax.process_count() == 1:
            raise
        message = str(error)
    messages = exchange(message)
    for process, raised in enumerate(messages):
        if raised is not None:
            # What all of them say needs no name.
            same = all(other == raised for other in messages)
            raise UserError(raised if same else f"process {process}: {raised}")
    return result  # type: ignore[return-value]


def from_primary(function: Callable[[], Result]) -> Result:
    """Call a function in the primary process and give its result, JSON, to all.

    What lies in the workdir is decided on once: hosts may see a shared folder at different times.
    """
    result = sync_call(lambda: function() if is_primary() else None)
    return exchange(result)[0]  # type: ignore[no-any-return]


def require_agreement(facts: Callable[[], Mapping[str, Any]]) -> None:
    """Compare what this process has with what all others have, if there are others.

    Args:
        facts: gives JSON values by their names, such as `describe_run` returns; not called in a
            run of one process, which need not read its sources and hash its weights.

    Raises:
        UserError: in every process, naming the first difference and the process.
    """
    if process_share()[1] == 1:
        return
    first, *others = exchange(dict(facts()))
    for process, theirs in enumerate(others, start=1):
        for key in sorted(first.keys() | theirs.keys()):
            if first.get(key) != theirs.get(key):
                raise UserError(
                    f"process {process} differs from process 0 in {key}: {theirs.get(key)!r} "
                    f"instead of {first.get(key)!r}; start all with the same config, code and data"
                )
