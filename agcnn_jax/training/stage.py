"""Training one stage: start or resume, fit, keep the best."""

from __future__ import annotations

from typing import Any

import jax
import orbax.checkpoint as ocp

from agcnn_jax.models.agcnn import Variables
from agcnn_jax.storage import write_json
from agcnn_jax.training import checkpoints
from agcnn_jax.training.experiment import Experiment
from agcnn_jax.training.finished import read_result, stage_directory
from agcnn_jax.training.fit import fit
from agcnn_jax.training.parallel import from_primary, is_primary, replicate, together
from agcnn_jax.training.preemption import StopRequest
from agcnn_jax.training.schedule import make_schedule
from agcnn_jax.training.steps import init_state, merge_branches, select_branches
from agcnn_jax.training.strategies import Stage


def train_stage(
    experiment: Experiment, stage: Stage, variables: Variables, stop_requested: StopRequest
) -> Variables:
    """Train a stage, or continue it, or only load it when it is finished.

    Args:
        experiment: see `Experiment`.
        stage: which branches to train.
        variables: of all branches, with the stages before done.
        stop_requested: see `stop_requests`.

    Returns:
        All branches, the trained ones as in the stage's best checkpoint.
    """
    directory = stage_directory(experiment.workdir, stage)
    schedule = make_schedule(experiment, stage)
    trained = select_branches(variables, stage.branches)
    state = replicate(experiment.mesh, init_state(trained, schedule.optimizer))
    template = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    manager = together(lambda: checkpoints.open_manager(directory / "checkpoints"))
    try:
        result = from_primary(lambda: read_result(experiment.workdir, stage))
        if result is None:
            fit(experiment, stage, schedule, manager, state, variables, stop_requested)
            result = best_of(manager)
            from_primary(lambda: write_json(directory / "result.json", result))
        best = checkpoints.restore(manager, result["best_step"], template, experiment.identity)
    finally:
        manager.close()
    if is_primary():
        score = result["best_val_auc_mean"]
        print(
            f"stage {stage.name}: best checkpoint at step {result['best_step']}, mean validation "
            f"AUC {'-' if score is None else f'{score:.4f}'}"
        )
    return merge_branches(variables, jax.device_get(best.variables))


def best_of(manager: ocp.CheckpointManager) -> dict[str, Any]:
    """Name a stage's best checkpoint, as `result.json` does."""
    checkpoints.finish(manager)
    step = manager.best_step()
    score = manager.metrics(step)["val_auc_mean"]
    return {
        "best_step": step,
        "best_val_auc_mean": None if score == checkpoints.NO_AUC else score,
    }
