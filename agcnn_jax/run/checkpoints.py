"""Orbax checkpoints of a stage: the latest to resume from, the best for the stages after it."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_manager import METRIC_ITEM_NAME
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from agcnn_jax.runtime import cluster
from agcnn_jax.runtime.devices import as_numpy, this_process_only
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.processes import from_primary, sync_call
from agcnn_jax.runtime.storage import error_number, is_remote, reason, reported, write_json

if TYPE_CHECKING:
    # A trained run is read where grain is not installed.
    from grain import DatasetIterator

_NO_AUC = -1.0
"""Saved where no finding has a validation AUC; below any AUC."""


class StageCheckpoints(ocp.CheckpointManager):
    """The checkpoints of a stage, at most two: the latest, and the best that has a score.

    Saves run in the background. A checkpoint appears by a rename once it is complete, so that a
    torn one is never loaded. A file that cannot be read or written is a `UserError`. The class
    overrides and calls private methods of orbax; checked with version 0.12.
    """

    def __init__(
        self, directory: epath.Path, identity: dict[str, Any] | None = None, read_only: bool = False
    ):
        """Open the checkpoints in a folder, which need not exist yet.

        All that are saved belong to `identity`: their backbone, labels, lineage ... Those that are
        loaded must agree with it. All processes of a run open them. If `read_only`, the folder has
        to hold one, and nothing is written, deleted or waited for.
        """
        self._identity = identity or {}
        _silence_background_errors()
        processes = this_process_only() if read_only else ocp.options.MultiprocessingOptions()
        best = BestN(get_metric_fn=_rank, n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy([LatestN(1), best]),
            best_fn=_rank,
            read_only=read_only,
            cleanup_tmp_directories=not read_only,
            enable_async_checkpointing=not read_only,
            # Where orbax cannot make a folder in the background, it waits for 5 minutes.
            async_options=ocp.options.AsyncOptions(create_directories_asynchronously=False),
            multiprocessing_options=processes,
        )
        arrays = ocp.StandardCheckpointHandler(multiprocessing_options=processes)
        text = ocp.JsonCheckpointHandler(multiprocessing_options=processes)
        items = {"state": arrays, "batches": text, "identity": text}
        initialise = functools.partial(super().__init__, item_handlers=items)

        def open_checkpoints() -> None:
            done = "read" if read_only else "written"
            with reported(directory, done), _report_unreadable(directory):
                initialise(directory, options=options)

        open_checkpoints() if read_only else sync_call(open_checkpoints)
        if read_only and self.latest_step() is None:
            raise UserError(
                f"{directory} holds no finished checkpoint; {train_again(directory.parent)}"
            )

    def save(self, step: int, state: Any, batches: DatasetIterator) -> None:
        """Save a tree of arrays and the position of an iterator, in the background."""
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            batches=ocp.args.JsonSave(batches.get_state()),
            identity=ocp.args.JsonSave(self._identity),
        )
        with reported(self.directory, "written"):
            # Without `force`, orbax asks whether any process has been told to stop.
            super().save(step, args=args, force=True)

    def add_score(
        self,
        step: int,
        val_auc_mean: float | None,
        val_auc_findings: int,
        val_auc: Mapping[str, Mapping[str, float | None]] | None = None,
    ) -> None:
        """Add the validation score of a checkpoint, and delete the checkpoint that it beats.

        The score is a mean over `val_auc_findings` findings, None if no finding has an AUC.
        `val_auc`, `{branch: {finding: AUC}}`, is kept with it.
        """
        self.wait_until_finished()
        mean = _NO_AUC if val_auc_mean is None else val_auc_mean
        metrics: dict[str, Any] = {"val_auc_mean": mean, "val_auc_findings": val_auc_findings}
        metrics |= {"val_auc": val_auc or {}, "step": step}
        path = self.directory / str(step) / METRIC_ITEM_NAME / METRIC_ITEM_NAME
        with reported(self.directory, "written"):
            from_primary(lambda: write_json(path, metrics))
            # Hosts may see the file at different times, so all take it from memory.
            next(info for info in self._checkpoints if info.step == step).metrics = metrics
            for old in self._get_old_steps_to_remove():
                self.delete(old)

    def score(self, step: int) -> dict[str, Any] | None:
        """Return what `add_score` added to a checkpoint; None if it has no score."""
        metrics: dict[str, Any] | None = self.metrics(step)
        if metrics and metrics["val_auc_mean"] == _NO_AUC:
            return {**metrics, "val_auc_mean": None}
        return metrics

    def resume_point(self) -> tuple[int, bool]:
        """Return the latest step, 0 without any, and whether it has a score; for all processes."""

        def latest() -> tuple[int, bool]:
            step = self.latest_step() or 0
            return step, step > 0 and self.score(step) is not None

        step, scored = from_primary(latest)
        return step, scored

    def best_score(self) -> dict[str, Any]:
        """Return the score of the best checkpoint, for all processes."""
        score: Any = from_primary(lambda: self.score(self.best_step() or 0))
        return dict(score)

    def wait_until_finished(self) -> None:
        """Wait until the checkpoint that is being saved is complete."""
        with reported(self.directory, "written"):
            super().wait_until_finished()

    def close(self) -> None:
        """Finish what is being saved, and close."""
        with reported(self.directory, "written"):
            # orbax 0.12 does not wait until torn checkpoints are deleted; whoever opens the folder
            # next would delete them as well, and fail.
            self._maybe_await_cleanup_tmp_directory()
            super().close()

    def identity(self, step: int) -> dict[str, Any]:
        """Return what a checkpoint's weights belong to."""
        return dict(self._restore(step, identity=ocp.args.JsonRestore())["identity"])

    def restore(self, step: int, template: Any, batches: DatasetIterator) -> Any:
        """Load a checkpoint like a template, shardings included, and set an iterator's position."""
        self._check_identity(step)
        state = ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, template))
        with _report_unreadable(self.directory, step):
            saved = self._restore(step, state=state, batches=ocp.args.JsonRestore())
            batches.set_state(saved["batches"])
        return saved["state"]

    def restore_best(self, step: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Load the best checkpoint, or that of `step`, as nested dicts of numpy arrays.

        Also returns all that the weights belong to.
        """
        step = self.best_step() if step is None else step
        if step is None:
            raise UserError(
                f"{self.directory} holds no validated checkpoint; run the train.py command again"
            )
        saved = self._check_identity(step)
        with _report_unreadable(self.directory, step):
            # Numpy, because branches may share these arrays, and a step donates its buffers.
            template = as_numpy(self.item_metadata(step)["state"])
            return self._restore(step, state=ocp.args.StandardRestore(template))["state"], saved

    def _restore(self, step: int, **items: Any) -> Any:
        with _report_unreadable(self.directory, step):
            return super().restore(step, args=ocp.args.Composite(**items))

    def _check_identity(self, step: int) -> dict[str, Any]:
        saved = self.identity(step)
        for key, value in self._identity.items():
            if saved.get(key) != value:
                raise UserError(
                    f"checkpoint {self.directory}/{step} is of another {key}: "
                    f"{json.dumps(saved.get(key))} instead of {json.dumps(value)}; use the config "
                    f"that it was trained with"
                )
        return saved

    def reached_preemption(self, step: int) -> bool:
        """Leave it to `stop_requests`: orbax asks late, and JAX may name a step past the end."""
        return False

    def _wait_for_checkpointers(self) -> None:
        """End all processes if one cannot write its part; the others would wait for ten minutes."""
        try:
            with reported(self.directory, "written"):
                super()._wait_for_checkpointers()
        except UserError as error:
            cluster.fail(error)
            raise


def _rank(metrics: dict[str, float]) -> tuple[float, float]:
    """Order checkpoints by AUC, and equal ones by step, the earlier first; without AUC the last."""
    score, step = metrics["val_auc_mean"], metrics["step"]
    return score, step if score == _NO_AUC else -step


@contextlib.contextmanager
def _report_unreadable(directory: epath.Path, step: int | None = None) -> Iterator[None]:
    """Turn an error from reading a stage's checkpoint, or by default all scores, into one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        number, remote = error_number(error), is_remote(directory)
        damaged = isinstance(error, ValueError | KeyError) and number is None
        unreadable = step is not None and (isinstance(error, OSError) or number or remote)
        if not (damaged or unreadable):
            raise
        what = f"a checkpoint in {directory}" if step is None else f"checkpoint {directory}/{step}"
        state, remedy = "is damaged or incomplete", train_again(directory.parent)
        if remote or number not in (None, errno.ENOENT):
            state = "cannot be read"
            remedy = f"check your permission and the network, or, if it is damaged, {remedy}"
        raise UserError(f"{what} {state} ({reason(directory, error)}); {remedy}") from error


def train_again(stage: epath.Path) -> str:
    """Say how to train a stage and all later ones again, given the folder of the stage."""
    later: list[str] = []
    # The caller reports an error already; one from listing folders would hide it.
    with contextlib.suppress(Exception):
        names = sorted(path.name for path in stage.parent.iterdir())
        later = [name for name in names if name[:1].isdigit() and name > stage.name]
    others = f" and, beside it, {' and '.join(later)}" if later else ""
    return f"delete {stage}{others} and run the train.py command again"


@functools.cache
def _silence_background_errors() -> None:
    """Keep off stderr what a save that failed in the background logs besides raising it."""

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            sys.__unraisablehook__(unraisable)

    # Every thread and event loop of orbax (0.12) logs the error once more.
    logging.getLogger("absl").addFilter(lambda record: "/orbax/" not in record.pathname)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL + 1)
    # After the error, some coroutines never start and some arrays outlive the event loop.
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    sys.unraisablehook = hook
