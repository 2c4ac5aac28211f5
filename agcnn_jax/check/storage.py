"""What the workdir allows, how fast checkpoints go, and how fast each host reads records."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grain
from etils import epath

from agcnn_jax.check.part import Part, in_words, named, slow_ones
from agcnn_jax.data.pipeline import iterate, training_batches
from agcnn_jax.run import lineage
from agcnn_jax.run.checkpoints import StageCheckpoints
from agcnn_jax.run.run import Run
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.processes import check_shared, exchange, process_share, sync_call
from agcnn_jax.runtime.storage import delete, is_remote, read_json, write_json

SECONDS = 1.0
"""How long records are read, at least."""

LEAST_BATCHES = 3

FOLDER = ".check"
"""In the workdir, for what a check writes and deletes."""


def check_storage(run: Run, batch_size: int, needed: int, hosts: Sequence[str]) -> Part:
    """Try the workdir and the data on every process; all call this.

    `needed` are the bytes that the run has still to write.
    """
    place, failures = run.workdir, []
    writable = False
    try:
        sync_call(lambda: probe(place))
        check_shared(place)
        writable = True
    except UserError as error:
        failures.append(str(error))
    free = free_bytes(place)
    if failure := no_space(place, free, needed):
        failures.append(failure)
        writable = False
    try:
        rates = exchange(sync_call(lambda: records_a_second(run, batch_size)))
    except UserError as error:
        rates = []
        failures.append(str(error))
    part = judge_reading(rates, hosts)
    figures: dict[str, Any] = {"remote": is_remote(place), "writable": writable}
    figures |= {"free_bytes": free, "bytes_to_write": needed}
    there = "" if free is None else f", {in_words(free)} free"
    line = f"workdir: the run will write {in_words(needed)}{there}"
    return Part("storage", figures | part.figures, (line, *part.lines), (*failures, *part.failures))


def probe(workdir: epath.Path) -> None:
    """Write a small file into a workdir, read it, list the folder and delete the file.

    Raises:
        UserError: names what cannot be done there.
    """
    mark = workdir / FOLDER / uuid.uuid4().hex
    write_json(mark, {"written": True}, "make the workdir writable, or choose another --workdir")
    read_json(mark)
    if mark.name not in {path.name for path in mark.parent.iterdir()}:
        raise UserError(
            f"{mark.parent} does not list a file that was just written there; choose a --workdir "
            f"on a filesystem that does"
        )
    try:
        delete(mark)
    except UserError as error:
        raise UserError(
            f"{error}; training deletes old checkpoints: it needs the permission to delete there"
        ) from error


def free_bytes(workdir: epath.Path) -> int | None:
    """Return what is free where a workdir is or will be; None in an object store."""
    if is_remote(workdir):
        return None
    place = next(one for one in (workdir, *workdir.parents) if one.exists())
    return shutil.disk_usage(os.fspath(place)).free


def no_space(workdir: epath.Path, free: int | None, needed: int) -> str | None:
    """Say that what the run will write does not fit."""
    if free is None or free >= needed:
        return None
    return (
        f"{workdir} has {in_words(free)} free, and the run will write {in_words(needed)}; free "
        f"some space, or choose another --workdir"
    )


def records_a_second(run: Run, batch_size: int) -> float:
    """Read this process's share of training batches, as training does, for a second or more."""
    share = process_share()
    source, indices = run.records.images_and_labels(), run.split.train
    dataset = training_batches(source, indices, batch_size, run.config.seed, *share)
    with contextlib.closing(iterate(dataset)) as batches:
        next(batches)  # starts the threads
        read, began = 0, time.perf_counter()
        while read < LEAST_BATCHES or time.perf_counter() - began < SECONDS:
            next(batches)
            read += 1
        return read * batch_size / share[1] / (time.perf_counter() - began)


def judge_reading(rates: Sequence[float], hosts: Sequence[str]) -> Part:
    """Judge the records a second of each process, while all read."""
    if not rates:
        return Part("storage", {})
    slowest = rates.index(min(rates))
    shown = f"records read: {sum(rates):,.0f} a second by all"
    if len(rates) > 1:
        shown += f", slowest {named(slowest, hosts)} with {rates[slowest]:,.0f}"
    failures = [
        f"{named(process, hosts)} reads {rates[process]:,.0f} records a second, the others several "
        f"times as many, and all will wait for it; look at its disk and its load, or leave that "
        f"host out"
        for process in slow_ones([1 / rate for rate in rates], least=0)
    ]
    figures = {"records_a_second": [round(rate, 1) for rate in rates], "slowest_process": slowest}
    return Part("storage", figures, (shown,), tuple(failures))


def time_checkpoint(
    folder: epath.Path, identity: Mapping[str, Any], state: Any, batches: grain.DatasetIterator
) -> dict[str, Any]:
    """Write, list, read and delete a checkpoint of a state, in seconds; all processes call this.

    `as_written` tells whether all processes have listed and read what was written. `UserError` if
    one of these fails.
    """
    seconds: dict[str, Any] = {}

    def timed(name: str, function: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = function()
        seconds[name] = time.perf_counter() - began
        return result

    with StageCheckpoints(folder, dict(identity)) as checkpoints:

        def write() -> None:
            timed("training_waits", lambda: checkpoints.save(1, state, batches))
            checkpoints.wait_until_finished()

        timed("write", write)
        steps = timed("list", lambda: checkpoints.all_steps(read=True))
        restored = timed("read", lambda: checkpoints.restore(1, state, batches))
        same = lineage.digest(restored) == lineage.digest(state)
        timed("delete", lambda: checkpoints.delete(1))
    return seconds | {"as_written": all(exchange(same and list(steps) == [1]))}
