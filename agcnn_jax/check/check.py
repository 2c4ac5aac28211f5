"""The parts of a check in order, its table and its file."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from typing import Any

import jax
import ml_collections
from etils import epath

from agcnn_jax.check.forecast import bytes_to_write, forecast, plan
from agcnn_jax.check.hosts import check_hosts
from agcnn_jax.check.network import check_network
from agcnn_jax.check.part import Part, report, table
from agcnn_jax.check.program import check_stage
from agcnn_jax.check.storage import FOLDER, check_storage
from agcnn_jax.config.keys import flatten
from agcnn_jax.config.strategies import stages
from agcnn_jax.models.agcnn import Variables, select_branches
from agcnn_jax.run.run import Run
from agcnn_jax.run.stage_results import has_started
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.machine import seconds_since_start
from agcnn_jax.runtime.processes import announce, from_primary, is_primary, sync_call
from agcnn_jax.runtime.storage import write_json
from agcnn_jax.training.loop import open_workdir
from agcnn_jax.training.schedule import Schedule, make_schedule
from agcnn_jax.training.start import Start, open_start
from agcnn_jax.training.steps import init_state

FILE = "check.json"


def check(config: ml_collections.ConfigDict, workdir: str) -> bool:
    """Check whether a run will work in `workdir` and how long it takes; all processes call this.

    Prints a table, and writes `check.json` into the workdir. Nothing else remains there.

    Returns:
        Whether nothing failed.

    Raises:
        UserError: for what keeps a training from being opened, as `train` does.
    """
    began = time.perf_counter()
    run, begun = sync_call(lambda: open_workdir(config, workdir))
    start = open_start(run, begun)
    opening = seconds_since_start() or time.perf_counter() - began
    parts = []
    from_primary(lambda: remove(run.workdir / FOLDER))  # of a check that was killed
    try:
        for part in check_parts(run, start, opening):
            announce(table(part))
            parts.append(part)
    finally:
        if is_primary():
            remove(run.workdir / FOLDER)
    failures = [failure for part in parts for failure in part.failures]
    hosts = [one["host"] for one in parts[0].figures["processes"]]
    content = report(parts, flatten(config.to_dict()), hosts)
    written = from_primary(lambda: write_report(content, run.workdir))
    verdict = f"{len(failures)} failed" if failures else "passed"
    announce(f"check {verdict} after {time.perf_counter() - began:,.0f} s; see {written}")
    return not failures


def check_parts(run: Run, start: Start, opening: float) -> Iterator[Part]:
    """Yield the parts of a check as they are measured; hosts that differ end it."""
    who = check_hosts(run, start)
    yield who
    if who.figures["differences"]:
        return
    hosts = [one["host"] for one in who.figures["processes"]]
    schedules = [make_schedule(run, stage) for stage in stages(run.config.strategy)]
    sizes = {one.stage.name: state_bytes(one, start.variables) for one in schedules}
    gradients = max(gradient_count(one, start.variables) for one in schedules)
    yield check_network(run.mesh, gradients, hosts)
    begun = from_primary(
        lambda: [one.stage.name for one in schedules if has_started(run.workdir, one.stage)]
    )
    largest = max(one.batch_size for one in schedules)
    storage = check_storage(run, largest, bytes_to_write(sizes, begun), hosts)
    yield storage
    made = [
        check_stage(run, one, start.variables, hosts, storage.figures["writable"])
        for one in schedules
    ]
    measured = {part.name: part.figures for part in made if part.figures}
    yield Part(
        "program",
        measured,
        tuple(line for part in made for line in part.lines),
        tuple(failure for part in made for failure in part.failures),
    )
    if len(measured) == len(schedules):
        every = run.config.checkpoint_every
        plans = [
            plan(one.stage.name, one.total_steps, one.steps_per_epoch, every) for one in schedules
        ]
        yield forecast(plans, measured, opening)


def state_bytes(schedule: Schedule, variables: Variables) -> int:
    """Return the bytes of a stage's checkpoint, before compression."""
    trained = select_branches(variables, schedule.stage.branches)
    state = jax.eval_shape(functools.partial(init_state, optimizer=schedule.optimizer), trained)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


def gradient_count(schedule: Schedule, variables: Variables) -> int:
    """Return the number of parameters that a stage trains."""
    trained = select_branches(variables, schedule.stage.branches)
    return sum(leaf.size for leaf in jax.tree.leaves(trained["params"]))


def remove(folder: epath.Path) -> None:
    """Delete what a check has written; where that is not allowed, say so."""
    try:
        if folder.exists():
            folder.rmtree()
    except Exception as error:  # Clients of object stores share no class of exceptions.
        announce(f"{folder} is left behind ({type(error).__name__}); delete it")


def write_report(content: Any, workdir: epath.Path) -> str:
    """Write `check.json` into the workdir, or into the current folder if that fails."""
    try:
        write_json(workdir / FILE, content)
        return str(workdir / FILE)
    except UserError:
        write_json(epath.Path(FILE).resolve(), content)
        return FILE
