"""What remains of a stage's steps: lines in the log, checkpoints, validation scores."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from typing import Any

import grain
import jax
import jax.numpy as jnp

from agcnn_jax.run.checkpoints import StageCheckpoints
from agcnn_jax.run.experiment import Experiment
from agcnn_jax.run.log import MetricsLog, progress_bar
from agcnn_jax.runtime.errors import Stopped, UserError
from agcnn_jax.runtime.preemption import StopRequest
from agcnn_jax.training.schedule import Schedule
from agcnn_jax.training.steps import TrainState

GO_ON = "run the same command again to continue"


class Record(contextlib.ExitStack):
    """Logs, saves and scores a stage; losses and weights that are not finite are never saved.

    A step's losses are fetched when the next step is under way, so that no device waits for it.
    """

    def __init__(
        self,
        experiment: Experiment,
        schedule: Schedule,
        checkpoints: StageCheckpoints,
        resumed: int,
        unscored: bool,
        stop_requested: StopRequest,
    ):
        """Open the log and show progress from step `resumed`; its score may be still to come."""
        super().__init__()
        self._schedule, self._checkpoints, self._stage = schedule, checkpoints, schedule.stage.name
        self._stop_requested = stop_requested
        self._log_every = experiment.config.log_every
        self._learning_rates = schedule.learning_rates()
        self._held: tuple[int, dict[str, jax.Array]] | None = None
        self._lap = (resumed, time.perf_counter())
        log = MetricsLog(experiment.workdir, self._stage, resumed, unscored)
        self._log = self.enter_context(log)
        total, done = (steps * schedule.batch_size for steps in (schedule.total_steps, resumed))
        self._bar = self.enter_context(progress_bar(total, done, f"stage {self._stage}"))

    def hold(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Log the step before, and hold this step's metrics until it is over."""
        self.flush()
        self._held = step, metrics
        self._bar.update(self._schedule.batch_size)

    def flush(self) -> None:
        """Check the losses of the step that is held, and log them if it is their turn."""
        if self._held is None:
            return
        (step, metrics), self._held = self._held, None
        losses = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if not math.isfinite(losses["loss"]):
            raise self._diverged(step, f"the loss is {losses['loss']}")
        if step % self._log_every == 0 or self._schedule.ends_epoch(step):
            self._log.write(
                step,
                epoch=self._schedule.epoch(step),
                **losses,
                learning_rate=float(self._learning_rates[step - 1]),
                images_per_second=self.rate(step),
            )
            self._bar.set_postfix(loss=f"{losses['loss']:.4f}", refresh=False)

    def save(self, step: int, state: TrainState, batches: grain.DatasetIterator) -> None:
        """Save a checkpoint in the background, once the log holds every step up to it."""
        self.flush()
        # The loss of this step was computed before its update.
        if not jax.device_get(_all_finite(state)):
            raise self._diverged(step, "weights are not finite")
        self._log.flush()
        self._checkpoints.save(step, state, batches)

    def validate(self, step: int, state: TrainState, score: Callable[..., dict[str, Any]]) -> None:
        """Score a step that is saved already, so that a stop here loses only the score."""

        def after_batch() -> None:
            if self._stop_requested():
                raise self.stopped(step)

        try:
            scores = score(state, after_batch)
        except FloatingPointError as error:
            raise self._diverged(step, str(error)) from error
        self._log.write(step, epoch=self._schedule.epoch(step), **scores)
        self._log.flush()
        mean, findings = scores["val_auc_mean"], scores["val_auc_findings"]
        self._checkpoints.add_score(step, mean, findings, scores["val_auc"])
        self.rate(step)

    def stopped(self, step: int) -> Stopped:
        """Finish what is being saved, and return what to raise."""
        self._checkpoints.wait_until_finished()
        return Stopped(f"saved and stopped at step {step} of stage {self._stage}; {GO_ON}")

    def _diverged(self, step: int, what: str) -> UserError:
        """Name the step that diverged, and the last checkpoint before it."""
        self._checkpoints.wait_until_finished()
        last = max((saved for saved in self._checkpoints.all_steps() if saved < step), default=None)
        kept = f"the last checkpoint is step {last}" if last else "there is no checkpoint yet"
        return UserError(
            f"{what} at step {step} of stage {self._stage}; {kept} in "
            f"{self._checkpoints.directory}; try a smaller config.learning_rate in another "
            f"--workdir"
        )

    def rate(self, step: int) -> float:
        """Return the images per second since the last call."""
        (last, then), now = self._lap, time.perf_counter()
        self._lap = step, now
        return round((step - last) * self._schedule.batch_size / max(now - then, 1e-9), 1)


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    finite = jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), tree)
    return jax.tree.reduce(jnp.logical_and, finite)
