"""Records of a stage's steps: lines in the log, checkpoints, validation scores."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import grain
import jax
import jax.numpy as jnp

from agcnn_jax.run.checkpoints import StageCheckpoints
from agcnn_jax.run.run import Run
from agcnn_jax.runtime.errors import Stopped, UserError
from agcnn_jax.runtime.preemption import StopRequest
from agcnn_jax.runtime.processes import announce, is_primary
from agcnn_jax.runtime.progress import Progress, duration
from agcnn_jax.training.log import MetricsLog
from agcnn_jax.training.schedule import Schedule
from agcnn_jax.training.steps import TrainState

GO_ON = "run the same command again to continue"


class Record(contextlib.ExitStack):
    """Logs, saves and scores a stage; losses and weights that are not finite are never saved.

    A step's losses are fetched when the next step is under way, so that no device waits for it.
    """

    def __init__(
        self,
        run: Run,
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
        self._epochs = schedule.epoch(schedule.total_steps)
        self._log_every = run.config.log_every
        self._learning_rates = schedule.learning_rates()
        self._held: tuple[int, dict[str, jax.Array]] | None = None
        self._lap = (resumed, time.perf_counter())
        log = MetricsLog(run.workdir, self._stage, resumed, unscored)
        self._log = self.enter_context(log)
        total, done = (steps * schedule.batch_size for steps in (schedule.total_steps, resumed))
        bar = Progress(f"stage {self._stage}", total, "images", done, shown=is_primary())
        self.bar = self.enter_context(bar)
        self._losses: list[float] = []  # of the epoch
        self._work: tuple[int, float] = (0, 0.0)  # before the epoch
        self._validated = False

    def hold(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Log the step before, and hold this step's metrics until it is over."""
        self.flush()
        self._held = step, metrics
        self.bar.update(self._schedule.batch_size)

    def flush(self) -> None:
        """Check the losses of the step that is held, and log them if it is their turn."""
        if self._held is None:
            return
        (step, metrics), self._held = self._held, None
        losses = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self._losses.append(losses["loss"])
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
            self.bar.note = f"loss {losses['loss']:.4f}"

    def save(self, step: int, state: TrainState, batches: grain.DatasetIterator) -> None:
        """Save a checkpoint in the background, once the log holds every step up to it."""
        self.flush()
        # The loss of this step was computed before its update.
        if not jax.device_get(all_finite(state)):
            raise self._diverged(step, "weights are not finite")
        self._log.flush()
        self._checkpoints.save(step, state, batches)

    def validate(self, step: int, state: TrainState, score: Callable[..., dict[str, Any]]) -> None:
        """Score a step that is saved already, so that a stop here loses only the score."""
        times = [time.perf_counter()] if self._validated else []  # the first batch compiles

        def after_batch() -> None:
            times.append(time.perf_counter())
            if self._stop_requested():
                raise self.stopped(step)

        try:
            with self.paused(step, "validation"):
                scores = score(state, after_batch, self._validated)
        except FloatingPointError as error:
            raise self._diverged(step, str(error)) from error
        self._validated = True
        times.append(time.perf_counter())
        self._log.write(step, epoch=self._schedule.epoch(step), **scores)
        self._log.flush()
        mean, findings = scores["val_auc_mean"], scores["val_auc_findings"]
        self._checkpoints.add_score(step, mean, findings, scores["val_auc"])
        if is_primary():
            remaining = self._epochs - self._schedule.epoch(step)
            self.bar.later = remaining * (times[-1] - times[0])
            announce(self._describe_epoch(step, mean))
        self._losses, self._work = [], self.bar.work()
        self.rate(step)

    @contextlib.contextmanager
    def paused(self, step: int, why: str) -> Iterator[None]:
        """Show what happens instead of training; rates leave it out."""
        with self.bar.paused(why):
            yield
        self.rate(step)

    def _describe_epoch(self, step: int, score: float | None) -> str:
        """Say in a line how an epoch ended, and how long the rest of the stage takes."""
        parts = []
        if self._losses:
            parts.append(f"loss {math.fsum(self._losses) / len(self._losses):.4f}")
        parts.append(f"validation AUC {'none' if score is None else f'{score:.4f}'}")
        kept = self._checkpoints.score(self._checkpoints.best_step() or 0)
        if kept and kept["val_auc_mean"] is not None:
            epoch = self._schedule.epoch(kept["step"])
            parts.append(f"best {kept['val_auc_mean']:.4f} in epoch {epoch}")
        (images, seconds), (before, then) = self.bar.work(), self._work
        if images > before:
            parts.append(f"{(images - before) / (seconds - then):,.1f} images/s")
        if left := self.bar.seconds_left():
            parts.append(f"{duration(left)} left")
        number = self._schedule.epoch(step)
        return f"stage {self._stage}, epoch {number} of {self._epochs}: {', '.join(parts)}"

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
def all_finite(tree: Any) -> jax.Array:
    """Tell whether all arrays of a tree are finite, as a scalar."""
    finite = jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), tree)
    return jax.tree.reduce(jnp.logical_and, finite)
