"""Orbax checkpoints of a stage: the latest to resume from, the best for the stages after it."""

from __future__ import annotations

import json
from typing import Any

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers
from orbax.checkpoint.checkpoint_manager import METRIC_ITEM_NAME

from agcnn_jax.run.checkpoint_errors import (
    report_unreadable,
    report_unwritable,
    silence_background_errors,
    train_again,
)
from agcnn_jax.runtime import cluster
from agcnn_jax.runtime.devices import on_one_device, this_process_only
from agcnn_jax.runtime.errors import USAGE_STATUS, UserError, say
from agcnn_jax.runtime.processes import from_primary
from agcnn_jax.runtime.storage import reported, write_json

_NO_AUC = -1.0
"""Saved where no finding has a validation AUC; below any AUC."""


class StageCheckpoints:
    """The checkpoints of a stage, at most two: the latest, and the best that has been scored.

    Saves run in the background. A checkpoint appears by a rename once it is complete, so that a
    torn one is never loaded. Whatever cannot be read or written is a `UserError`.
    """

    def __init__(self, directory: epath.Path, read_only: bool = False):
        """Open the checkpoints in a folder.

        Args:
            directory: need not exist yet, unless `read_only`.
            read_only: neither write nor delete anything, nor wait for other processes.
        """
        self.directory = directory
        self._manager = _open_to_read(directory) if read_only else _open_to_write(directory)

    def __enter__(self) -> StageCheckpoints:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def latest_step(self) -> int | None:
        """Return the step of the latest checkpoint; None if there is none."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """Return the step of the best checkpoint; None if none has been scored."""
        return self._manager.best_step()

    def all_steps(self) -> list[int]:
        """Return the steps of all checkpoints."""
        return list(self._manager.all_steps())

    def score(self, step: int) -> dict[str, Any] | None:
        """Return a checkpoint's `val_auc_mean` and `val_auc_findings`; None if it has no score."""
        metrics = self._manager.metrics(step)
        if metrics is None:
            return None
        mean = metrics["val_auc_mean"]
        return {
            "val_auc_mean": None if mean == _NO_AUC else mean,
            "val_auc_findings": metrics["val_auc_findings"],
        }

    def save(
        self, step: int, state: Any, batches: grain.DatasetIterator, identity: dict[str, Any]
    ) -> None:
        """Save a checkpoint without a score, in the background.

        Args:
            step: training steps done.
            state: pytree of arrays.
            batches: iterator whose position goes with the state.
            identity: what the weights belong to (backbone, labels ...), checked by `restore`.
        """
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            batches=ocp.args.JsonSave(batches.get_state()),
            identity=ocp.args.JsonSave(identity),
        )
        with report_unwritable(self.directory):
            # Without `force`, orbax asks whether any process has been told to stop.
            self._manager.save(step, args=args, force=True)

    def add_score(self, step: int, val_auc_mean: float | None, val_auc_findings: int) -> None:
        """Add a checkpoint's validation score, and delete the checkpoint that it beats.

        Args:
            step: of a checkpoint without a score.
            val_auc_mean: mean validation AUC; None if no finding has one.
            val_auc_findings: number of findings in that mean.
        """
        self.finish()
        metrics = {
            "val_auc_mean": _NO_AUC if val_auc_mean is None else val_auc_mean,
            "val_auc_findings": val_auc_findings,
            "step": step,
        }
        with report_unwritable(self.directory):
            self._manager.add_metrics(step, metrics)

    def finish(self) -> None:
        """Wait until the checkpoint that is being saved is complete."""
        with report_unwritable(self.directory):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Finish and close."""
        with report_unwritable(self.directory):
            self._manager.close()

    def identity(self, step: int) -> dict[str, Any]:
        """Return what a checkpoint's weights belong to."""
        args = ocp.args.Composite(identity=ocp.args.JsonRestore())
        with report_unreadable(self.directory, step):
            return dict(self._manager.restore(step, args=args)["identity"])

    def restore(
        self,
        step: int,
        template: Any,
        identity: dict[str, Any],
        batches: grain.DatasetIterator | None = None,
    ) -> Any:
        """Load a checkpoint.

        Args:
            step: which one.
            template: pytree of arrays, or of `ShapeDtypeStruct` with shardings, to restore into.
            identity: what the weights must belong to.
            batches: iterator to set to the checkpoint's position.

        Returns:
            The state, with the structure and the shardings of `template`.

        Raises:
            UserError: if the checkpoint is unreadable or belongs to something else.
        """
        self._check_identity(step, identity)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, template)
        items: dict[str, Any] = {"state": ocp.args.StandardRestore(abstract)}
        if batches is not None:
            items["batches"] = ocp.args.JsonRestore()
        with report_unreadable(self.directory, step):
            restored = self._manager.restore(step, args=ocp.args.Composite(**items))
            if batches is not None:
                batches.set_state(restored["batches"])
            return restored["state"]

    def restore_best(
        self, identity: dict[str, Any], step: int | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Load a checkpoint whose shapes are unknown to host memory; only if `read_only`.

        Args:
            identity: what the weights must belong to.
            step: which one; by default the best.

        Returns:
            The state as nested dicts of numpy arrays in the precision they were saved in, and
            everything that the weights belong to.

        Raises:
            UserError: if there is none, or it is unreadable or belongs to something else.
        """
        step = self.best_step() if step is None else step
        if step is None:
            raise UserError(
                f"{self.directory} holds no validated checkpoint; run the train.py command again"
            )
        saved = self._check_identity(step, identity)
        # Without x64, JAX would load float64 arrays as float32.
        with report_unreadable(self.directory, step), jax.enable_x64(True):
            template = on_one_device(self._manager.item_metadata(step)["state"])
            args = ocp.args.Composite(state=ocp.args.StandardRestore(template))
            restored = self._manager.restore(step, args=args)
            # Numpy, because branches may share these arrays, and a step donates its buffers.
            return jax.tree.map(np.array, restored["state"]), saved

    def _check_identity(self, step: int, wanted: dict[str, Any]) -> dict[str, Any]:
        saved = self.identity(step)
        for key, value in wanted.items():
            if saved.get(key) != value:
                raise UserError(
                    f"checkpoint {self.directory}/{step} is of another {key}: "
                    f"{json.dumps(saved.get(key))} instead of {json.dumps(value)}; use the config "
                    f"that it was trained with"
                )
        return saved


class _Manager(ocp.CheckpointManager):
    """Orbax's manager, adapted to several processes; uses private names of orbax 0.12."""

    def reached_preemption(self, step: int) -> bool:
        """Never ask: `stop_requests` does.

        JAX makes all processes agree on a number that none has asked about yet. Orbax asks in the
        background, late and with a stage's steps, so that the run might never reach that number.
        """
        return False

    def _wait_for_checkpointers(self) -> None:
        """End all processes if this one could not write its part of a checkpoint.

        Orbax calls this in the background. The other processes wait for this one's part, and the
        next save waits for them: all for ten minutes.
        """
        try:
            with report_unwritable(self.directory):
                super()._wait_for_checkpointers()
        except UserError as error:
            if cluster.is_joined():
                say(f"error: {error}")
                cluster.announce(str(error))
                cluster.leave(USAGE_STATUS)
            raise

    def add_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Add metrics to a saved checkpoint, which orbax takes only when it saves.

        Sets them in memory too, since hosts may see the new file at different times.
        """
        path = self.directory / str(step) / METRIC_ITEM_NAME / METRIC_ITEM_NAME
        from_primary(lambda: write_json(path, metrics))
        for info in self._checkpoints:
            if info.step == step:
                info.metrics = metrics
        for old in self._get_old_steps_to_remove():
            self.delete(old)


def _open_to_write(directory: epath.Path) -> _Manager:
    best = checkpoint_managers.BestN(
        get_metric_fn=_rank, n=1, keep_checkpoints_without_metrics=False
    )
    latest = checkpoint_managers.LatestN(1)
    options = ocp.CheckpointManagerOptions(
        preservation_policy=checkpoint_managers.AnyPreservationPolicy([latest, best]),
        best_fn=_rank,
        cleanup_tmp_directories=True,
        # Where orbax (0.12) cannot make a folder in the background, it waits for 5 minutes.
        async_options=ocp.options.AsyncOptions(create_directories_asynchronously=False),
    )
    silence_background_errors()
    with report_unwritable(directory), report_unreadable(directory):
        return _Manager(directory, options=options)


def _open_to_read(directory: epath.Path) -> _Manager:
    with reported(directory, "read"):
        found = any(path.name.isdigit() for path in directory.glob("*"))
    if not found:
        raise UserError(
            f"{directory} holds no finished checkpoint; {train_again(directory.parent)}"
        )
    options = ocp.CheckpointManagerOptions(
        best_fn=_rank,
        create=False,
        read_only=True,
        enable_async_checkpointing=False,
        multiprocessing_options=this_process_only(),
    )
    # A manager knows the shapes only of items whose handlers it was given.
    handlers: dict[str, Any] = {
        "state": ocp.StandardCheckpointHandler(multiprocessing_options=this_process_only()),
        "identity": ocp.JsonCheckpointHandler(multiprocessing_options=this_process_only()),
    }
    with reported(directory, "read"), report_unreadable(directory):
        return _Manager(directory, options=options, item_handlers=handlers)


def _rank(metrics: dict[str, float]) -> tuple[float, float]:
    """Order checkpoints by validation AUC, and equal ones by step, the earlier first.

    If none has an AUC, the last counts as best: nothing speaks for stopping early.
    """
    score, step = metrics["val_auc_mean"], metrics["step"]
    return score, step if score == _NO_AUC else -step
