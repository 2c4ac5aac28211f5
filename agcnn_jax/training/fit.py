"""The loop over a stage's steps: batch, step, log, validate, checkpoint."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grain
import jax
from etils import epath

from agcnn_jax.data.pipeline import iterate, training_batches
from agcnn_jax.models.agcnn import Variables, select_branches
from agcnn_jax.run.checkpoints import StageCheckpoints
from agcnn_jax.run.run import Run
from agcnn_jax.runtime.devices import REPLICATED, SHARDED, data_parallel, replicate, shard_batch
from agcnn_jax.runtime.errors import Stopped, UserError
from agcnn_jax.runtime.preemption import StopRequest
from agcnn_jax.runtime.processes import announce, is_primary, process_share
from agcnn_jax.runtime.storage import upload
from agcnn_jax.training.first_look import first_look
from agcnn_jax.training.host_crop import make_host_cropper
from agcnn_jax.training.prediction import make_validation
from agcnn_jax.training.record import GO_ON, Record
from agcnn_jax.training.schedule import Schedule
from agcnn_jax.training.steps import TrainState, init_state, train_step

GIB = 2**30
PARTS = {"argument": "arguments", "output": "outputs", "temp": "scratch", "alias": "reused"}
"""The parts of a step's memory as XLA and as messages name them."""

LESS_MEMORY = (
    "raise --config.accumulate, lower --config.batch_size or --config.input_size, use "
    "--config.dtype=bfloat16, or use more devices"
)
"""What to do if a step needs more memory than a device has."""


def fit(
    run: Run,
    schedule: Schedule,
    checkpoints: StageCheckpoints,
    variables: Variables,
    stop_requested: StopRequest,
) -> None:
    """Train a stage from its latest checkpoint to its last step; without one, from `variables`.

    These are all branches; those that the stage does not train stay as they are. `UserError` if the
    loss or the weights are no longer finite, or a step needs more memory than a device has;
    `Stopped` after any step or batch of validation, with everything saved, if that was requested.
    """
    config, stage = run.config, schedule.stage
    state, frozen = first_state(run, schedule, variables)
    batches = open_batches(run, schedule, frozen)
    score = make_validation(run, stage, frozen)
    resumed, scored = checkpoints.resume_point()
    # A run that was stopped in a validation has saved the step without a score.
    unscored = resumed > 0 and schedule.ends_epoch(resumed) and not scored
    if resumed:
        state = checkpoints.restore(resumed, state, batches)
    total = schedule.total_steps
    profile = Profile(run.workdir / "profile" / stage.name, config.profile, resumed, total)
    record = Record(run, schedule, checkpoints, resumed, unscored, stop_requested)

    def validate(step: int) -> None:
        record.validate(step, state, score)
        if stage.number == 1 and schedule.epoch(step) == 1:
            with record.paused(step, "drawing the first look"):
                first_look(run, state.variables)

    with contextlib.closing(batches), record, profile:
        if stop_requested():
            raise Stopped(f"stopped before step {resumed + 1} of stage {stage.name}; {GO_ON}")
        if unscored:
            validate(resumed)
        for step in range(resumed + 1, total + 1):
            profile.before(step)
            batch = next(batches)
            if step == resumed + 1:
                with record.bar.compiling():
                    step_function = compile_step(run, schedule, state, frozen, batch)
                record.rate(resumed)
            # A hidden transfer between host and device would make one wait for the other.
            with jax.transfer_guard("disallow"):
                state, metrics = step_function(state, frozen, batch)
            profile.after(step, metrics)
            record.hold(step, metrics)
            stopping, validating = stop_requested(), schedule.ends_epoch(step)
            if stopping or validating or step % config.checkpoint_every == 0:
                record.save(step, state, batches)
            if stopping:
                raise record.stopped(step)
            if validating:
                validate(step)
    checkpoints.wait_until_finished()


def first_state(run: Run, schedule: Schedule, variables: Variables) -> tuple[TrainState, Variables]:
    """Put on all devices what a stage starts from: its state, and the branches it leaves frozen."""
    branches = schedule.stage.branches
    # As one program: otherwise each array of the optimizer would be compiled by itself.
    start = jax.jit(functools.partial(init_state, optimizer=schedule.optimizer))
    state = replicate(run.mesh, start(select_branches(variables, branches)))
    others = tuple(branch for branch in variables["params"] if branch not in branches)
    return state, replicate(run.mesh, select_branches(variables, others))


def open_batches(run: Run, schedule: Schedule, frozen: Variables) -> grain.DatasetIterator:
    """Open the stage's pipeline, whose batches are on the devices as `train_step` takes them.

    The host cropper works ahead of the step, for which the global branch has to be frozen; stages
    that train the global branch along with others crop on the device.
    """
    config, mesh = run.config, run.mesh
    recipe = run.recipe.for_stage(schedule.stage)
    images, indices = run.records.images_and_labels(), run.split.train
    share = process_share()
    dataset = training_batches(images, indices, schedule.batch_size, recipe.seed, *share)
    on_host = config.attention.cropper == "host" and config.local_input != "image"
    if on_host and "global" not in schedule.stage.branches:
        return iterate(dataset, make_host_cropper(recipe, frozen, mesh))
    names = ("image", "labels", "record")
    return iterate(dataset, lambda batch: shard_batch(mesh, {name: batch[name] for name in names}))


def make_train_step(run: Run, schedule: Schedule) -> Any:
    """Map `train_step` over the devices and jit it; the old state's buffers are donated."""
    step = functools.partial(
        train_step,
        recipe=run.recipe.for_stage(schedule.stage),
        stage=schedule.stage,
        optimizer=schedule.optimizer,
        accumulate=schedule.accumulate,
    )
    in_specs = (REPLICATED, REPLICATED, SHARDED)
    return data_parallel(step, run.mesh, in_specs, REPLICATED, donate=(0,))


def compile_step(
    run: Run, schedule: Schedule, state: TrainState, frozen: Variables, batch: Any
) -> Callable[..., Any]:
    """Compile a stage's step for its first batch; `UserError` if a device has too little memory."""
    step = make_train_step(run, schedule).lower(state, frozen, batch).compile()
    if memory := step_memory(step):
        check_memory(memory, run.mesh.local_devices[0])
        needed = memory["peak"] / 2**20
        announce(f"stage {schedule.stage.name}: a step needs {needed:,.0f} MiB on each device")
    return step


def step_memory(compiled: jax.stages.Compiled) -> dict[str, int] | None:
    """Read what XLA plans for a compiled step on one device, in bytes.

    Returns:
        `argument`, `output`, `temp` and `alias`, the part of the outputs that takes the place of
        donated arguments; `total`, which is argument + output + temp - alias; and `peak`, the most
        that is in use at once: `total` where XLA does not report it. None without any analysis.
    """
    analysis: Any = compiled.memory_analysis()
    if analysis is None:
        return None
    memory = {part: int(getattr(analysis, f"{part}_size_in_bytes")) for part in PARTS}
    total = sum(memory.values()) - 2 * memory["alias"]
    peak = int(getattr(analysis, "peak_memory_in_bytes", 0))
    return memory | {"total": total, "peak": peak or total}


def check_memory(needed: dict[str, int], device: jax.Device) -> None:
    """Raise `UserError` if a step's `step_memory` does not fit into a device that it runs on.

    A device that reports no limit, such as a CPU, is not checked.
    """
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit and needed["peak"] > limit:
        parts = ", ".join(f"{words} {needed[part] / GIB:.2f}" for part, words in PARTS.items())
        raise UserError(
            f"a training step needs {needed['peak'] / GIB:.2f} GiB ({parts}) and {device} allows "
            f"{limit / GIB:.2f} GiB; {LESS_MEMORY}"
        )


class Profile(contextlib.ExitStack):
    """Traces `steps` steps of a stage, or those that it reaches, on the primary process.

    XProf and TensorBoard show the traces.
    """

    def __init__(self, directory: epath.Path, steps: int, resumed: int, total: int):
        super().__init__()
        # After ten steps of warm-up, or fewer in a short stage; the first of them compiles.
        first = max(resumed + 2, min(resumed + 10, total - steps) + 1)
        self._steps = range(first, first + steps) if is_primary() else range(0)
        self._directory = directory

    def before(self, step: int) -> None:
        """Start the trace if this is its first step."""
        if step in self._steps[:1]:
            # The profiler writes to disks only; the workdir may be in an object store.
            folder = self.enter_context(tempfile.TemporaryDirectory(prefix="agcnn-profile-"))
            self.push(functools.partial(self._upload, Path(folder)))
            self.enter_context(jax.profiler.trace(folder))

    def after(self, step: int, outputs: Any) -> None:
        """End the trace if this was its last step, once the devices have finished it."""
        if step in self._steps[-1:]:
            jax.block_until_ready(outputs)
            self.close()

    def _upload(self, folder: Path, failure: type[BaseException] | None, *details: Any) -> None:
        # A trace that cannot be written must not hide why the training ends.
        with contextlib.suppress(*([UserError] if failure else [])):
            upload(folder, self._directory)
