"""The processes of a run: which one this is, what the others know, and failing together.

With one process, each function here only calls or returns what it is given.
"""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.progress import write_line
from agcnn_jax.runtime.storage import delete, exists, write_json

Result = TypeVar("Result")


def is_primary() -> bool:
    """Return True in the process that writes tables, figures and logs."""
    return jax.process_index() == 0


def announce(message: str) -> None:
    """Print a message once, however many processes the run has."""
    if is_primary():
        write_line(message, sys.stdout)


def process_share() -> tuple[int, int]:
    """Return this process's number and the number of processes, as the pipeline takes them."""
    return jax.process_index(), jax.process_count()


def exchange(value: Any) -> list[Any]:
    """Send a JSON value to all processes; return the values of all, in order of the processes."""
    if jax.process_count() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = np.asarray(multihost_utils.process_allgather(np.int32(len(text))))
    padded = np.pad(text, (0, int(lengths.max()) - len(text)))
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [json.loads(row[:length].tobytes()) for row, length in zip(rows, lengths, strict=True)]


def sync_call(function: Callable[[], Result]) -> Result:
    """Call a function in every process; if one raises `UserError`, all raise the first one.

    Otherwise the others would wait for the process that stopped.
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
            same = set(messages) == {raised}
            raise UserError(raised if same else f"process {process}: {raised}")
    return result  # type: ignore[return-value]


def from_primary(function: Callable[[], Result]) -> Result:
    """Call a function in the primary process and return its JSON result in all.

    The primary decides alone, since hosts may see a shared folder change at different times.
    """
    result = sync_call(lambda: function() if is_primary() else None)
    return exchange(result)[0]  # type: ignore[no-any-return]


def check_agreement(facts: Callable[[], Mapping[str, Any]]) -> None:
    """Raise `UserError` in every process if `facts`, JSON values by name, differ between them.

    A run of one process does not call `facts`, since hashing sources and weights takes time.
    """
    if process_share()[1] == 1:
        return
    for process, key, first, theirs in differences(exchange(dict(facts()))):
        raise UserError(
            f"process {process} differs from process 0 in {key}: {theirs!r} "
            f"instead of {first!r}; start all with the same config, code and data"
        )


def differences(each: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, str, Any, Any]]:
    """Yield the process, the name, process 0's value and its own for each fact that differs."""
    first, *others = each
    for process, theirs in enumerate(others, start=1):
        for key in sorted(first.keys() | theirs.keys()):
            if first.get(key) != theirs.get(key):
                yield process, key, first.get(key), theirs.get(key)


def check_shared(workdir: epath.Path) -> None:
    """Raise `UserError` unless all processes see what process 0 writes to the workdir."""
    if process_share()[1] == 1:
        return
    # A new name, which no host can remember as missing or from an earlier run.
    mark = workdir / from_primary(lambda: f".shared-{uuid.uuid4().hex}")
    from_primary(lambda: write_json(mark, {}))
    visible = exchange(sync_call(lambda: exists(mark)))
    from_primary(lambda: delete(mark))
    if not all(visible):
        raise UserError(
            f"process {visible.index(False)} does not see what process 0 writes to --workdir "
            f"{workdir}; give a folder that all hosts share, or gs://BUCKET/PATH"
        )
