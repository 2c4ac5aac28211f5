"""Training one stage: start or resume, step, validate, keep the best."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from typing import Any

import grain
import jax
import orbax.checkpoint as ocp
from etils import epath

from agcnn_jax.data.pipeline import Batch, iterate, training_batches
from agcnn_jax.errors import UserError
from agcnn_jax.models.agcnn import Variables
from agcnn_jax.training import checkpoints
from agcnn_jax.training.experiment import Experiment
from agcnn_jax.training.host_crop import make_host_cropper
from agcnn_jax.training.interrupts import deferred_interrupts
from agcnn_jax.training.log import MetricsLog, progress_bar
from agcnn_jax.training.parallel import (
    REPLICATED,
    SHARDED,
    data_parallel,
    replicate,
    shard_batch,
)
from agcnn_jax.training.schedule import Schedule, make_schedule
from agcnn_jax.training.settings import read_json, write_json
from agcnn_jax.training.steps import (
    TrainState,
    init_state,
    merge_branches,
    select_branches,
    train_step,
)
from agcnn_jax.training.strategies import Stage
from agcnn_jax.training.validation import make_validation


def stage_directory(workdir: epath.Path, stage: Stage) -> epath.Path:
    """Where a stage keeps its checkpoints and its result."""
    return workdir / "stages" / stage.name


def read_result(workdir: epath.Path, stage: Stage) -> dict[str, Any] | None:
    """Read a finished stage's `result.json`; None while it is not finished."""
    directory = stage_directory(workdir, stage)
    path = directory / "result.json"
    if not path.exists():
        return None
    result = read_json(path, "delete it and run the train.py command again to make it anew")
    if not isinstance(result.get("best_step"), int) or "best_val_auc_mean" not in result:
        raise UserError(f"{path} is damaged; delete it and run the train.py command again")
    if not (directory / "checkpoints" / str(result["best_step"])).exists():
        raise UserError(
            f"{path} names checkpoint {result['best_step']}, which is not there any more; delete "
            f"{directory} and run the train.py command again to train that stage anew"
        )
    return result


def train_stage(experiment: Experiment, stage: Stage, variables: Variables) -> Variables:
    """Train a stage, or continue it, or only load it when it is finished.

    Args:
        experiment: see `Experiment`.
        stage: which branches to train.
        variables: of all branches, with the stages before done.

    Returns:
        All branches, the trained ones as in the stage's best checkpoint.
    """
    with deferred_interrupts() as check_interrupt:
        return _train_stage(experiment, stage, variables, check_interrupt)


def _train_stage(
    experiment: Experiment, stage: Stage, variables: Variables, check_interrupt: Callable[[], None]
) -> Variables:
    directory = stage_directory(experiment.workdir, stage)
    schedule = make_schedule(experiment, stage)
    trained = select_branches(variables, stage.branches)
    state = replicate(experiment.mesh, init_state(trained, schedule.optimizer))
    template = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    manager = checkpoints.open_manager(directory / "checkpoints")
    try:
        if read_result(experiment.workdir, stage) is None:
            fit(experiment, stage, schedule, manager, state, variables, check_interrupt)
            write_json(directory / "result.json", best_of(manager))
        result = read_result(experiment.workdir, stage)
        assert result is not None
        best = checkpoints.restore(manager, result["best_step"], template, experiment.identity)
    finally:
        manager.close()
    score = result["best_val_auc_mean"]
    print(
        f"stage {stage.name}: best checkpoint at step {result['best_step']}, mean validation AUC "
        + ("-" if score is None else f"{score:.4f}")
    )
    return merge_branches(variables, jax.device_get(best.variables))


def best_of(manager: ocp.CheckpointManager) -> dict[str, Any]:
    """Name a stage's best checkpoint, as `result.json` does."""
    manager.wait_until_finished()
    step = manager.best_step()
    score = manager.metrics(step)["val_auc_mean"]
    return {
        "best_step": step,
        "best_val_auc_mean": None if score == checkpoints.NO_AUC else score,
    }


def fit(
    experiment: Experiment,
    stage: Stage,
    schedule: Schedule,
    manager: ocp.CheckpointManager,
    state: TrainState,
    variables: Variables,
    check_interrupt: Callable[[], None],
) -> None:
    """Do a stage's steps, from the latest checkpoint if there is one, to the last.

    Args:
        experiment: see `Experiment`.
        stage: which branches to train.
        schedule: see `Schedule`.
        manager: of the stage's checkpoints.
        state: to start from, replicated.
        variables: of all branches, for the frozen ones.
        check_interrupt: called before every step; see `deferred_interrupts`.
    """
    config = experiment.config
    frozen_branches = tuple(b for b in variables["params"] if b not in stage.branches)
    frozen = replicate(experiment.mesh, select_branches(variables, frozen_branches))
    batches = open_batches(experiment, stage, schedule, frozen)
    step_function = make_train_step(experiment, stage, schedule)
    validate = make_validation(experiment, stage, frozen)
    try:
        resumed = manager.latest_step() or 0
        if resumed:
            state = checkpoints.restore(manager, resumed, state, experiment.identity, batches)
        log = MetricsLog(experiment.workdir, stage.name, resumed)
        save = functools.partial(checkpoints.save, manager, identity=experiment.identity)
        progress = progress_bar(
            schedule.total_steps * schedule.batch_size,
            resumed * schedule.batch_size,
            f"stage {stage.name}",
        )
        with progress:
            clock = Clock(schedule.batch_size, resumed)
            previous = None
            for step in range(resumed + 1, schedule.total_steps + 1):
                check_interrupt()
                state, metrics = step_function(state, frozen, device_batch(experiment, batches))
                progress.update(schedule.batch_size)
                if previous is not None:
                    # That step is over by now, so that fetching its loss makes no device wait.
                    fetch_losses(stage, manager, *previous)
                previous = step, metrics
                if step % config.log_every == 0 or schedule.ends_epoch(step):
                    losses = fetch_losses(stage, manager, *previous)
                    log.write(
                        step,
                        epoch=schedule.epoch(step),
                        **losses,
                        learning_rate=float(schedule.learning_rate(step - 1)),
                        images_per_second=clock.lap(step),
                    )
                    progress.set_postfix(loss=f"{losses['loss']:.4f}", refresh=False)
                if schedule.ends_epoch(step):
                    scores = validate(state)
                    log.write(step, epoch=schedule.epoch(step), **scores)
                    save(step, state, batches, val_auc_mean=scores["val_auc_mean"], evaluated=True)
                    clock.lap(step)
                elif step % config.checkpoint_every == 0:
                    save(step, state, batches)
        log.close()
    finally:
        batches.close()
        manager.wait_until_finished()


class Clock:
    """Images per second since the last look."""

    def __init__(self, batch_size: int, step: int):
        """Start at a step."""
        self._batch_size = batch_size
        self._step, self._time = step, time.perf_counter()

    def lap(self, step: int) -> float:
        """Return the rate since the last lap, and start a new one."""
        now = time.perf_counter()
        rate = (step - self._step) * self._batch_size / max(now - self._time, 1e-9)
        self._step, self._time = step, now
        return round(rate, 1)


def open_batches(
    experiment: Experiment, stage: Stage, schedule: Schedule, frozen: Variables
) -> grain.DatasetIterator:
    """Open the stage's pipeline, with the host cropper at its end where that applies.

    The host cropper needs a global branch that does not change while it works ahead; stages that
    train the global branch along with others crop on the device.
    """
    config = experiment.config
    dataset = training_batches(
        experiment.records.images_and_labels(),
        experiment.split.train,
        schedule.batch_size,
        config.seed,
        jax.process_index(),
        jax.process_count(),
    )
    on_host = (
        stage.needs_local_images
        and stage.global_is_frozen
        and config.attention.cropper == "host"
        and config.local_input == "crop"
    )
    if not on_host:
        return iterate(dataset)
    return iterate(dataset, make_host_cropper(experiment.recipe, frozen, experiment.mesh))


def device_batch(experiment: Experiment, batches: grain.DatasetIterator) -> Batch:
    """Take the next batch and put on the devices what is not there yet."""
    batch = next(batches)
    if "images" in batch:
        return batch
    return shard_batch(
        experiment.mesh, {name: batch[name] for name in ("image", "labels", "record")}
    )


def make_train_step(experiment: Experiment, stage: Stage, schedule: Schedule) -> Callable[..., Any]:
    """Map `train_step` over the devices and jit it; the old state's buffers are given up."""
    return data_parallel(
        functools.partial(
            train_step, recipe=experiment.recipe, stage=stage, optimizer=schedule.optimizer
        ),
        experiment.mesh,
        in_specs=(REPLICATED, REPLICATED, SHARDED),
        out_specs=REPLICATED,
        donate=(0,),
    )


def fetch_losses(
    stage: Stage, manager: ocp.CheckpointManager, step: int, metrics: dict[str, jax.Array]
) -> dict[str, float]:
    """Bring a step's losses to the host.

    Raises:
        UserError: if the loss is not finite, naming the stage, the step and the checkpoint to
            return to.
    """
    losses = {name: float(value) for name, value in jax.device_get(metrics).items()}
    if not math.isfinite(losses["loss"]):
        manager.wait_until_finished()
        good = manager.latest_step()
        kept = (
            "there is no checkpoint yet" if good is None else f"the last checkpoint is step {good}"
        )
        raise UserError(
            f"the loss of stage {stage.name} is {losses['loss']} at step {step}; {kept} in "
            f"{manager.directory}; try a smaller config.learning_rate in another --workdir"
        )
    return losses
