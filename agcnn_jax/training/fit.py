"""The loop over a stage's steps: batch, step, log, validate, checkpoint."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import grain
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from agcnn_jax.data.pipeline import Batch, iterate, training_batches
from agcnn_jax.models.agcnn import Variables, select_branches
from agcnn_jax.run.checkpoints import StageCheckpoints
from agcnn_jax.run.experiment import Experiment
from agcnn_jax.run.strategies import Stage
from agcnn_jax.run.summary import check_memory, step_memory
from agcnn_jax.runtime.devices import REPLICATED, SHARDED, data_parallel, replicate, shard_batch
from agcnn_jax.runtime.errors import Stopped
from agcnn_jax.runtime.preemption import StopRequest
from agcnn_jax.runtime.processes import from_primary, is_primary, process_share
from agcnn_jax.runtime.profile import Profile
from agcnn_jax.training.host_crop import make_host_cropper
from agcnn_jax.training.prediction import make_validation
from agcnn_jax.training.record import GO_ON, Record
from agcnn_jax.training.schedule import Schedule
from agcnn_jax.training.steps import TrainState, localise, train_step


def fit(
    experiment: Experiment,
    stage: Stage,
    schedule: Schedule,
    checkpoints: StageCheckpoints,
    identity: dict[str, Any],
    state: TrainState,
    variables: Variables,
    stop_requested: StopRequest,
) -> None:
    """Train a stage from its latest checkpoint, or from `state`, to its last step.

    The frozen branches are those of `variables` that the stage does not train. Every checkpoint is
    saved with `identity`, what the weights belong to.

    Raises:
        UserError: if the loss or the weights are no longer finite, or a step needs more memory
            than a device has.
        Stopped: if a stop was requested, after any step or batch of validation; all is saved.
    """
    config, mesh = experiment.config, experiment.mesh
    frozen_branches = tuple(b for b in variables["params"] if b not in stage.branches)
    frozen = replicate(mesh, select_branches(variables, frozen_branches))
    batches = open_batches(experiment, stage, schedule, frozen)
    score = make_validation(experiment, stage, frozen)
    resumed = from_primary(checkpoints.latest_step) or 0
    # A run that was stopped in a validation has saved the step without a score.
    unscored = resumed > 0 and from_primary(
        lambda: schedule.ends_epoch(resumed) and checkpoints.score(resumed) is None
    )
    if resumed:
        state = checkpoints.restore(resumed, state, identity, batches)
    step_function = compile_step(experiment, stage, schedule, state, frozen)
    total = schedule.total_steps
    profile = Profile(experiment.workdir / "profile" / stage.name, config.profile, resumed, total)
    record = Record(experiment, stage, schedule, checkpoints, resumed, unscored, stop_requested)
    with contextlib.closing(batches), record, profile:
        if stop_requested():
            raise Stopped(f"stopped before step {resumed + 1} of stage {stage.name}; {GO_ON}")
        if unscored:
            record.validate(resumed, state, score)
        for step in range(resumed + 1, total + 1):
            profile.before(step)
            batch = device_batch(experiment, next(batches))
            # A hidden transfer between host and device would make one wait for the other.
            with jax.transfer_guard("disallow"):
                state, metrics = step_function(state, frozen, batch)
            profile.after(step, metrics)
            record.hold(step, metrics)
            stopping, validating = stop_requested(), schedule.ends_epoch(step)
            if stopping or validating or step % config.checkpoint_every == 0:
                record.save(step, state, batches, identity)
            if stopping:
                raise record.stopped(step)
            if validating:
                record.validate(step, state, score)
    checkpoints.finish()


def crops_on_host(experiment: Experiment, stage: Stage) -> bool:
    """Tell whether the host cropper makes a stage's batches.

    It works ahead of the step, for which the global branch has to be frozen; stages that train the
    global branch along with others crop on the device.
    """
    config = experiment.config
    host = config.attention.cropper == "host" and config.local_input == "crop"
    return stage.global_is_frozen and host


def open_batches(
    experiment: Experiment, stage: Stage, schedule: Schedule, frozen: Variables
) -> grain.DatasetIterator:
    """Open the stage's pipeline, which ends with the host cropper where there is one."""
    recipe = experiment.recipe.for_stage(stage)
    dataset = training_batches(
        experiment.records.images_and_labels(),
        experiment.split.train,
        schedule.batch_size,
        recipe.seed,
        *process_share(),
    )
    if not crops_on_host(experiment, stage):
        return iterate(dataset)
    return iterate(dataset, make_host_cropper(recipe, frozen, experiment.mesh))


def device_batch(experiment: Experiment, batch: Batch) -> Batch:
    """Put a batch on the devices, unless the host cropper has."""
    if "local_images" in batch:
        return batch
    return shard_batch(
        experiment.mesh, {name: batch[name] for name in ("image", "labels", "record")}
    )


def batch_shapes(
    experiment: Experiment, stage: Stage, schedule: Schedule, frozen: Variables
) -> dict[str, jax.ShapeDtypeStruct]:
    """Describe a stage's batches on the devices: shapes, dtypes and shardings."""
    records, recipe, size = experiment.records, experiment.recipe, schedule.batch_size
    batch = {
        "image": jax.ShapeDtypeStruct((size, records.image_size, records.image_size), jnp.uint8),
        "record": jax.ShapeDtypeStruct((size,), jnp.int32),
        "labels": jax.ShapeDtypeStruct((size, len(records.labels)), jnp.uint8),
    }
    if crops_on_host(experiment, stage):
        step = jax.ShapeDtypeStruct((), jnp.int32)
        made = jax.eval_shape(functools.partial(localise, recipe=recipe), frozen, batch, step)
        batch = {
            "local_images": made["images"],
            "pooled_global": made["pooled_global"],
            "labels": batch["labels"],
        }
    sharding = NamedSharding(experiment.mesh, SHARDED)
    return {name: shape.update(sharding=sharding) for name, shape in batch.items()}


def make_train_step(experiment: Experiment, stage: Stage, schedule: Schedule) -> Any:
    """Map `train_step` over the devices and jit it; the old state's buffers are donated."""
    return data_parallel(
        functools.partial(
            train_step,
            recipe=experiment.recipe.for_stage(stage),
            stage=stage,
            optimizer=schedule.optimizer,
            accumulate=schedule.accumulate,
        ),
        experiment.mesh,
        in_specs=(REPLICATED, REPLICATED, SHARDED),
        out_specs=REPLICATED,
        donate=(0,),
    )


def compile_step(
    experiment: Experiment, stage: Stage, schedule: Schedule, state: TrainState, frozen: Variables
) -> Callable[..., Any]:
    """Compile a stage's step from shapes alone; `UserError` if a device has too little memory."""
    batch = batch_shapes(experiment, stage, schedule, frozen)
    step = make_train_step(experiment, stage, schedule).lower(state, frozen, batch).compile()
    if memory := step_memory(step):
        check_memory(memory, experiment.mesh.local_devices[0])
        if is_primary():
            needed = memory["peak"] / 2**20
            print(f"stage {stage.name}: a step needs {needed:,.0f} MiB on each device", flush=True)
    return step
