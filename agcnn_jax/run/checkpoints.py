"""Orbax checkpoints of a stage: the latest to resume from, the best for what comes after it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers
from orbax.checkpoint.checkpoint_manager import METRIC_ITEM_NAME

from agcnn_jax.run.checkpoint_errors import intact, quieten, train_again, written
from agcnn_jax.runtime import cluster
from agcnn_jax.runtime.devices import alone, on_one_device
from agcnn_jax.runtime.errors import USAGE_STATUS, UserError, say
from agcnn_jax.runtime.processes import from_primary
from agcnn_jax.runtime.storage import reported, write_json

NO_AUC = -1.0
"""Stands for a validation AUC that no finding has; below any AUC."""


class _Manager(ocp.CheckpointManager):
    """Orbax's manager (0.12), adapted to runs of several processes."""

    def reached_preemption(self, step: int) -> bool:
        """Never: that question is left to `stop_requests`.

        JAX agrees with all processes on a number that none has asked with yet. Orbax asks with the
        steps of a stage, in the background and late, so that the agreed number could be one that
        never comes.
        """
        return False

    def _wait_for_checkpointers(self) -> None:
        """End all processes if this one could not write its part of a checkpoint.

        Orbax calls this in the background. It would go on to wait for the other processes, which
        wait for this one's part, and for that the next save would wait: all for ten minutes.
        """
        try:
            with written(self.directory):
                super()._wait_for_checkpointers()
        except UserError as error:
            if cluster.is_joined():
                say(f"error: {error}")
                cluster.announce(str(error))
                cluster.leave(USAGE_STATUS)
            raise

    def add_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Give a checkpoint that lies there the metrics that it was saved without.

        Orbax takes metrics with `save` alone. They are set in memory too, where every process
        ranks the checkpoints: hosts may see a new file at different times.
        """
        path = self.directory / str(step) / METRIC_ITEM_NAME / METRIC_ITEM_NAME
        from_primary(lambda: write_json(path, metrics))
        for info in self._checkpoints:
            if info.step == step:
                info.metrics = metrics
        for old in self._get_old_steps_to_remove():
            self.delete(old)


@contextmanager
def reading(directory: epath.Path) -> Iterator[ocp.CheckpointManager]:
    """Open checkpoints to read them, without writing or deleting anything.

    Raises:
        UserError: if there are none, or one is unreadable.
    """
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
        multiprocessing_options=alone(),
    )
    # What an item's shapes are is known only to managers that were told how to read it.
    handlers: dict[str, Any] = {
        "state": ocp.StandardCheckpointHandler(multiprocessing_options=alone()),
        "identity": ocp.JsonCheckpointHandler(multiprocessing_options=alone()),
        "batches": ocp.JsonCheckpointHandler(multiprocessing_options=alone()),
    }
    with reported(directory, "read"), intact(directory):
        manager = _Manager(directory, options=options, item_handlers=handlers)
    with manager:
        yield manager


def open_manager(directory: epath.Path) -> ocp.CheckpointManager:
    """Open a stage's checkpoints to write more; they need not exist yet.

    Two are kept: the latest, and the best by the metric `val_auc_mean` of those that have it.
    Saving goes on in the background; a checkpoint appears by a rename when it is whole, so that a
    torn one is never loaded.
    """
    policy = checkpoint_managers.AnyPreservationPolicy(
        [
            checkpoint_managers.LatestN(1),
            checkpoint_managers.BestN(
                get_metric_fn=_rank, n=1, keep_checkpoints_without_metrics=False
            ),
        ]
    )
    options = ocp.CheckpointManagerOptions(
        preservation_policy=policy,
        best_fn=_rank,
        cleanup_tmp_directories=True,
        # Where a folder cannot be made in the background, orbax (0.12) waits for it for 5 minutes.
        async_options=ocp.options.AsyncOptions(create_directories_asynchronously=False),
    )
    quieten()
    with written(directory), intact(directory):
        return _Manager(directory, options=options)


def save(
    manager: ocp.CheckpointManager,
    step: int,
    state: Any,
    batches: grain.DatasetIterator,
    identity: dict[str, Any],
) -> None:
    """Save a checkpoint in the background, as not validated; see `add_score`.

    Args:
        manager: the stage's.
        step: training steps done.
        state: pytree of arrays.
        batches: the iterator whose position goes with the state.
        identity: what the weights are of (backbone, labels ...), checked by `restore`.
    """
    with written(manager.directory):
        manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                batches=ocp.args.JsonSave(batches.get_state()),
                identity=ocp.args.JsonSave(identity),
            ),
            # Orbax would otherwise ask whether another process wants to stop.
            force=True,
        )


def add_score(
    manager: ocp.CheckpointManager, step: int, val_auc_mean: float | None, val_auc_findings: int
) -> None:
    """Note what a checkpoint scored in validation, and delete the one that it beats.

    Args:
        manager: the stage's.
        step: of a checkpoint without a score; only with one can it become the best.
        val_auc_mean: validation AUC at this step; None when no finding has one.
        val_auc_findings: how many findings that mean is over.
    """
    assert isinstance(manager, _Manager)
    finish(manager)
    metrics = {
        "val_auc_mean": NO_AUC if val_auc_mean is None else val_auc_mean,
        "val_auc_findings": val_auc_findings,
        "step": step,
    }
    with written(manager.directory):
        manager.add_metrics(step, metrics)


def finish(manager: ocp.CheckpointManager) -> None:
    """Wait until what is being saved in the background is whole.

    Raises:
        UserError: if it could not be written.
    """
    with written(manager.directory):
        manager.wait_until_finished()


def close(manager: ocp.CheckpointManager) -> None:
    """Close a stage's checkpoints; `UserError` if what is saved in the background fails yet."""
    with written(manager.directory):
        manager.close()


def restore(
    manager: ocp.CheckpointManager,
    step: int,
    template: Any,
    identity: dict[str, Any],
    batches: grain.DatasetIterator | None = None,
) -> Any:
    """Load a checkpoint.

    Args:
        manager: the stage's.
        step: which one.
        template: pytree of arrays, or of `ShapeDtypeStruct` with shardings, to restore into.
        identity: what the weights must be of.
        batches: iterator to set to the checkpoint's position.

    Returns:
        The state, as `template`.

    Raises:
        UserError: if the checkpoint is of something else, or unreadable.
    """
    _check_saved_identity(manager, step, identity)
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, template)
    items: dict[str, Any] = {"state": ocp.args.StandardRestore(abstract)}
    if batches is not None:
        items["batches"] = ocp.args.JsonRestore()
    with intact(manager.directory, step):
        restored = manager.restore(step, args=ocp.args.Composite(**items))
        if batches is not None:
            batches.set_state(restored["batches"])
        return restored["state"]


def restore_best(
    manager: ocp.CheckpointManager, identity: dict[str, Any], step: int | None = None
) -> tuple[Any, dict[str, Any]]:
    """Load a stage's best checkpoint without knowing its shapes, to host memory.

    Args:
        manager: the stage's.
        identity: what the weights must be of.
        step: which one that is, where a `result.json` says so.

    Returns:
        The state as nested dicts of numpy arrays, and all that the weights are of.

    Raises:
        UserError: if there is none, or it is of something else, or unreadable.
    """
    step = manager.best_step() if step is None else step
    if step is None:
        raise UserError(
            f"{manager.directory} holds no validated checkpoint; run the train.py command again"
        )
    saved = _check_saved_identity(manager, step, identity)
    # In the precision that they were saved in, whatever this process computes in.
    with intact(manager.directory, step), jax.enable_x64(True):
        template = on_one_device(manager.item_metadata(step)["state"])
        args = ocp.args.StandardRestore(template)
        restored = manager.restore(step, args=ocp.args.Composite(state=args))
        # As numpy arrays: who shares them between branches must not share a buffer that one
        # branch's step gives up.
        return jax.tree.map(np.array, restored["state"]), saved


def saved_identity(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    """Read what a checkpoint's weights are of; `UserError` if it is unreadable."""
    with intact(manager.directory, step):
        saved = manager.restore(step, args=ocp.args.Composite(identity=ocp.args.JsonRestore()))
    return dict(saved["identity"])


def _check_saved_identity(
    manager: ocp.CheckpointManager, step: int, identity: dict[str, Any]
) -> dict[str, Any]:
    saved = saved_identity(manager, step)
    check_identity(saved, identity, f"checkpoint {manager.directory}/{step}")
    return saved


def check_identity(saved: dict[str, Any], wanted: dict[str, Any], what: str) -> None:
    """Raise `UserError` naming the first entry in which a checkpoint is of something else."""
    for key, value in wanted.items():
        if saved.get(key) != value:
            raise UserError(
                f"{what} is of another {key}: {json.dumps(saved.get(key))} "
                f"instead of {json.dumps(value)}; use the config that it was trained with"
            )


def _rank(metrics: dict[str, float]) -> tuple[float, float]:
    """Order checkpoints by validation AUC; of equal ones, the earlier counts as better.

    Without any AUC nothing speaks for stopping early, and the last one counts as best.
    """
    score, step = metrics["val_auc_mean"], metrics["step"]
    return score, step if score == NO_AUC else -step
