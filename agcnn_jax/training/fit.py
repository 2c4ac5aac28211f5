"""The loop over a stage's steps: batch, step, log, validate, checkpoint."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import grain
import jax

from agcnn_jax.data.pipeline import Batch, iterate, training_batches
from agcnn_jax.models.agcnn import Variables
from agcnn_jax.run.checkpoints import StageCheckpoints
from agcnn_jax.run.experiment import Experiment
from agcnn_jax.run.log import open_log, progress_bar
from agcnn_jax.run.strategies import Stage
from agcnn_jax.runtime.devices import REPLICATED, SHARDED, data_parallel, replicate, shard_batch
from agcnn_jax.runtime.errors import Stopped
from agcnn_jax.runtime.preemption import StopRequest
from agcnn_jax.runtime.processes import from_primary, is_primary, process_share
from agcnn_jax.runtime.profile import Profile
from agcnn_jax.training import divergence
from agcnn_jax.training.host_crop import make_host_cropper
from agcnn_jax.training.schedule import Schedule
from agcnn_jax.training.steps import TrainState, select_branches, train_step
from agcnn_jax.training.validation import make_validation


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
    """Do a stage's steps, from the latest checkpoint if there is one, to the last.

    Args:
        experiment: see `Experiment`.
        stage: which branches to train.
        schedule: see `Schedule`.
        checkpoints: of the stage.
        identity: what the weights are of, as every checkpoint says.
        state: to start from, replicated.
        variables: of all branches, for the frozen ones.
        stop_requested: asked after every step and every batch of validation; see `stop_requests`.

    Raises:
        UserError: if the loss or the weights are not finite any more.
        Stopped: when it was asked for; everything is saved.
    """
    config = experiment.config
    frozen_branches = tuple(b for b in variables["params"] if b not in stage.branches)
    frozen = replicate(experiment.mesh, select_branches(variables, frozen_branches))
    batches = open_batches(experiment, stage, schedule, frozen)
    step_function = make_train_step(experiment, stage, schedule)
    score = make_validation(experiment, stage, frozen)
    resumed = from_primary(checkpoints.latest_step) or 0
    # A run that was stopped in a validation has saved the step without a score.
    unscored = resumed > 0 and from_primary(
        lambda: schedule.ends_epoch(resumed) and checkpoints.score(resumed) is None
    )
    if resumed:
        state = checkpoints.restore(resumed, state, identity, batches)
    log = open_log(experiment.workdir, stage.name, resumed, not unscored, is_primary())
    learning_rates = schedule.learning_rates()
    clock = Clock(schedule.batch_size, resumed)
    progress = progress_bar(
        schedule.total_steps * schedule.batch_size,
        resumed * schedule.batch_size,
        f"stage {stage.name}",
        show=is_primary(),
    )
    unseen: list[tuple[int, dict[str, jax.Array]]] = []

    def look_at_losses() -> None:
        """Check the losses of a step done, and log them if it is their turn."""
        while unseen:
            step, metrics = unseen.pop()
            losses = divergence.fetch_losses(stage, checkpoints, step, metrics)
            if step % config.log_every == 0 or schedule.ends_epoch(step):
                log.write(
                    step,
                    epoch=schedule.epoch(step),
                    **losses,
                    learning_rate=float(learning_rates[step - 1]),
                    images_per_second=clock.lap(step),
                )
                progress.set_postfix(loss=f"{losses['loss']:.4f}", refresh=False)

    def save(step: int, state: TrainState) -> None:
        look_at_losses()
        divergence.check_finite(stage, checkpoints, step, state)
        # The log has to hold all steps up to a checkpoint.
        log.flush()
        checkpoints.save(step, state, batches, identity)

    def validate(step: int, state: TrainState) -> None:
        """Score a step that is saved already, so that a stop here loses only the score."""

        def after_batch() -> None:
            if stop_requested():
                raise stopped(step)

        try:
            scores = score(state, after_batch)
        except FloatingPointError as error:
            raise divergence.diverged(stage, checkpoints, step, str(error)) from error
        log.write(step, epoch=schedule.epoch(step), **scores)
        log.flush()
        checkpoints.add_score(step, scores["val_auc_mean"], scores["val_auc_findings"])
        clock.lap(step)

    def stopped(step: int) -> Stopped:
        checkpoints.finish()
        return Stopped(f"saved and stopped at step {step} of stage {stage.name}; {GO_ON}")

    profile = Profile(
        experiment.workdir / "profile" / stage.name, config.profile, resumed, schedule.total_steps
    )
    try:
        with log, progress, profile:
            if stop_requested():
                raise Stopped(f"stopped before step {resumed + 1} of stage {stage.name}; {GO_ON}")
            if unscored:
                validate(resumed, state)
            for step in range(resumed + 1, schedule.total_steps + 1):
                profile.before(step)
                batch = device_batch(experiment, next(batches))
                # Nothing may slip between host and device unasked, which would make one wait.
                with jax.transfer_guard("disallow"):
                    state, metrics = step_function(state, frozen, batch)
                profile.after(step, metrics)
                progress.update(schedule.batch_size)
                # The step before is over by now, so that fetching its loss makes no device wait.
                look_at_losses()
                unseen.append((step, metrics))
                stopping = stop_requested()
                if stopping or schedule.ends_epoch(step) or step % config.checkpoint_every == 0:
                    save(step, state)
                if stopping:
                    raise stopped(step)
                if schedule.ends_epoch(step):
                    validate(step, state)
    finally:
        batches.close()
    checkpoints.finish()


GO_ON = "run the same command again to continue"


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
    recipe = experiment.recipe.for_stage(stage)
    dataset = training_batches(
        experiment.records.images_and_labels(),
        experiment.split.train,
        schedule.batch_size,
        recipe.seed,
        *process_share(),
    )
    on_host = (
        stage.needs_local_images
        and stage.global_is_frozen
        and config.attention.cropper == "host"
        and config.local_input == "crop"
    )
    if not on_host:
        return iterate(dataset)
    return iterate(dataset, make_host_cropper(recipe, stage, frozen, experiment.mesh))


def device_batch(experiment: Experiment, batch: Batch) -> Batch:
    """Put on the devices what of a batch is not there yet."""
    if "local_images" in batch:
        return batch
    return shard_batch(
        experiment.mesh, {name: batch[name] for name in ("image", "labels", "record")}
    )


def make_train_step(experiment: Experiment, stage: Stage, schedule: Schedule) -> Callable[..., Any]:
    """Map `train_step` over the devices and jit it; the old state's buffers are given up."""
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
