"""A stage's own step on its own batches: compiled, run, saved and validated, and how long it took.

Everything is what training calls, so that the run finds its programs compiled.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from agcnn_jax.check.part import Part, in_words, named
from agcnn_jax.check.storage import FOLDER, time_checkpoint
from agcnn_jax.models.agcnn import Variables, merge_branches
from agcnn_jax.run import lineage
from agcnn_jax.run.run import Run
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.processes import exchange, from_primary, sync_call
from agcnn_jax.training.fit import (
    LESS_MEMORY,
    check_memory,
    first_state,
    make_train_step,
    open_batches,
    step_memory,
)
from agcnn_jax.training.predict_step import make_predict_step
from agcnn_jax.training.prediction import predict
from agcnn_jax.training.record import all_finite
from agcnn_jax.training.schedule import Schedule
from agcnn_jax.training.steps import TrainState

STEPS = 3
"""After which the loss and the parameters are looked at."""

SECONDS = 2.0
"""How long steps are timed, once fed by the pipeline and once with the same batch."""

FEWEST, MOST = 2, 300
"""How many steps are timed, at least and at most."""

BATCHES = 8
"""How many batches of validation are timed, at most."""


def check_stage(
    run: Run, schedule: Schedule, variables: Variables, hosts: Sequence[str], saved: bool
) -> Part:
    """Measure a stage; all processes call this.

    `variables` are all branches before training. Checkpoints are timed if `saved`.
    """
    name = schedule.stage.name
    try:
        return judge_stage(name, measure_stage(run, schedule, variables, saved), hosts)
    except UserError as error:
        if jax.process_count() > 1 and not isinstance(error, InAll):
            raise  # The others wait for this process.
        return Part(name, {}, (), (f"stage {name}: {error}",))


class InAll(UserError):
    """An error that all processes have."""


def measure_stage(
    run: Run, schedule: Schedule, variables: Variables, saved: bool
) -> dict[str, Any]:
    """Compile, run, save and validate a stage.

    Returns:
        All times in seconds, memory in bytes; `parameters` are a digest of each process's.
    """
    mesh, stage = run.mesh, schedule.stage
    figures: dict[str, Any] = {"images": schedule.batch_size, "steps": schedule.total_steps}
    state, frozen = first_state(run, schedule, variables)
    # Twice: the run that follows finds what crops the batches compiled.
    with contextlib.closing(open_batches(run, schedule, frozen)) as batches:
        next(batches)
    began = time.perf_counter()
    with contextlib.closing(open_batches(run, schedule, frozen)) as batches:
        batch = next(batches)
        figures["first_batch"] = time.perf_counter() - began

        def compiled() -> Any:
            began = time.perf_counter()
            step = make_train_step(run, schedule).lower(state, frozen, batch).compile()
            return step, time.perf_counter() - began

        step, figures["compile"] = in_all(lambda: out_of_memory(compiled))
        memory = step_memory(step)
        figures["memory"] = memory
        device = mesh.local_devices[0]
        figures["device_memory"] = (device.memory_stats() or {}).get("bytes_limit")
        if memory:
            in_all(lambda: check_memory(memory, device))
        figures["compile_again"] = out_of_memory(compiled)[1]

        state, losses, _ = out_of_memory(
            lambda: run_steps(step, state, frozen, itertools.chain([batch], batches), STEPS)
        )
        figures["losses"] = losses
        figures["weights_finite"] = bool(jax.device_get(all_finite(state)))
        figures["parameters"] = exchange(lineage.digest(state.variables["params"]))
        state, _, once = run_steps(step, state, frozen, batches, 1)
        count = from_primary(lambda: min(MOST, max(FEWEST, round(SECONDS / once))))
        # What was read ahead during the compilation would flatter the rate.
        state, _, _ = run_steps(step, state, frozen, batches, count)
        state, _, fed = run_steps(step, state, frozen, batches, count)
        state, _, resident = run_steps(step, state, frozen, itertools.repeat(batch), count)
        figures |= {"timed": count, "fed": fed / count, "resident": resident / count}
        figures["validation"] = validation_seconds(run, schedule, frozen, state)
        figures["checkpoint_bytes"] = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        if saved:
            # Last: it sets the batches back.
            folder = run.workdir / FOLDER / stage.name
            try:
                figures["checkpoint"] = time_checkpoint(folder, run.identity, state, batches)
            except UserError as error:
                if jax.process_count() > 1:
                    raise  # The others may wait for this process.
                figures["checkpoint_failed"] = str(error)
    return figures


def in_all(function: Callable[[], Any]) -> Any:
    """Call a function in all processes; an error of one becomes that of all."""
    try:
        return sync_call(function)
    except UserError as error:
        raise InAll(str(error)) from error


def out_of_memory(function: Callable[[], Any]) -> Any:
    """Call a function; that a device has too little memory for it becomes a `UserError`."""
    try:
        return function()
    except jax.errors.JaxRuntimeError as error:
        first = str(error).split("\n")[0][:200]
        if not first.startswith("RESOURCE_EXHAUSTED"):
            raise
        raise UserError(f"a device has too little memory ({first}); {LESS_MEMORY}") from error


def run_steps(
    step: Callable[..., Any],
    state: TrainState,
    frozen: Variables,
    batches: Iterable[Any],
    count: int,
) -> tuple[TrainState, list[float], float]:
    """Run steps as training does, fetching each loss one step late.

    Returns:
        The new state, the losses and the seconds of all steps.
    """
    losses: list[float] = []
    held: dict[str, jax.Array] | None = None
    iterator: Iterator[Any] = iter(batches)
    began = time.perf_counter()
    for _ in range(count):
        state, metrics = step(state, frozen, next(iterator))
        if held is not None:
            losses.append(float(jax.device_get(held)["loss"]))
        held = metrics
    losses.append(float(jax.device_get(held)["loss"]))
    jax.block_until_ready(state)
    return state, losses, time.perf_counter() - began


def validation_seconds(
    run: Run, schedule: Schedule, frozen: Variables, state: TrainState
) -> dict[str, float]:
    """Predict a few batches of the validation subset, and scale the seconds to all of it.

    Returns:
        `first` of the batch that compiles, `first_again` of one whose programs are in the cache,
        and `all`.
    """
    variables = merge_branches(frozen, state.variables)
    indices, size = run.split.validation, run.config.eval_batch_size

    def seconds(step: Callable[..., Any], part: np.ndarray, compiled: bool) -> float:
        began = time.perf_counter()
        predict(step, variables, run, part, "validation", compiled=compiled)
        return time.perf_counter() - began

    first = []
    for compiled in (False, True):
        step = make_predict_step(run.recipe, run.mesh, schedule.stage.branches)
        first.append(seconds(step, indices[:size], compiled))
    batches = math.ceil(len(indices) / size)
    timed = seconds(step, indices[: BATCHES * size], compiled=True)
    return {
        "first": first[0],
        "first_again": first[1],
        "all": timed * batches / min(batches, BATCHES),
    }


def judge_stage(name: str, figures: dict[str, Any], hosts: Sequence[str]) -> Part:
    """Judge what `measure_stage` returned."""
    failures = []
    losses, digests = figures["losses"], figures["parameters"]
    bad = [i for i, loss in enumerate(losses, start=1) if not math.isfinite(loss)]
    if bad or not figures["weights_finite"]:
        what = (
            f"the loss is {losses[bad[0] - 1]} at step {bad[0]}"
            if bad
            else (f"weights are not finite after step {len(losses)}")
        )
        failures.append(
            f"stage {name}: {what}; try a smaller config.learning_rate, and look at the weights in "
            f"config.init"
        )
    for process, digest in enumerate(digests):
        if digest != digests[0]:
            failures.append(
                f"stage {name}: after {len(losses)} steps {named(process, hosts)} has other "
                f"parameters than process 0; its devices or their connections compute wrongly: "
                f"leave that host out"
            )
    if "checkpoint_failed" in figures:
        failures.append(f"stage {name}: {figures['checkpoint_failed']}")
    if not figures.get("checkpoint", {}).get("as_written", True):
        failures.append(
            f"stage {name}: a checkpoint is not read as it was written; choose a --workdir on "
            f"another filesystem"
        )
    memory, limit = figures["memory"], figures["device_memory"]
    needs = f"{memory['peak'] / 2**20:,.0f} MiB" if memory else "memory not known"
    has = f" of {limit / 2**20:,.0f}" if limit else ""
    # JSON has no NaN.
    shown = [loss if math.isfinite(loss) else str(loss) for loss in losses]
    figures = figures | {"losses": shown, "parameters_equal": len(set(digests)) == 1}
    del figures["parameters"]
    lines = [
        f"{name}: compiled in {figures['compile']:.1f} s, {needs}{has} a device; a step of "
        f"{figures['images']} images {1e3 * figures['fed']:,.1f} ms fed, "
        f"{1e3 * figures['resident']:,.1f} resident; loss {losses[-1]:.4f}"
    ]
    if "checkpoint" in figures:
        taken = figures["checkpoint"]
        times = ", ".join(f"{word} {taken[word]:.2f} s" for word in ("write", "read", "delete"))
        lines.append(f"{name}: checkpoint of {in_words(figures['checkpoint_bytes'])}: {times}")
    return Part(name, figures, tuple(lines), tuple(failures))
