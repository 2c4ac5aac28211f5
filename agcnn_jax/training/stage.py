"""Training one stage: start or resume, fit, keep the best."""

from __future__ import annotations

from typing import Any

import jax
import orbax.checkpoint as ocp

from agcnn_jax.models.agcnn import Variables
from agcnn_jax.run import lineage
from agcnn_jax.run.checkpoints import StageCheckpoints
from agcnn_jax.run.experiment import Experiment
from agcnn_jax.run.stage_results import (
    check_lineage,
    check_start,
    check_weights,
    digests,
    read_result,
    stage_directory,
)
from agcnn_jax.run.strategies import Stage, branches_before
from agcnn_jax.runtime.devices import replicate
from agcnn_jax.runtime.preemption import StopRequest
from agcnn_jax.runtime.processes import from_primary, is_primary, sync_call
from agcnn_jax.runtime.storage import write_json
from agcnn_jax.training.fit import fit
from agcnn_jax.training.schedule import make_schedule
from agcnn_jax.training.steps import init_state, merge_branches, select_branches


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

    Raises:
        UserError: if the stage is of another run, or was begun from other weights than the stages
            before it have now.
    """
    directory = stage_directory(experiment.workdir, stage)
    schedule = make_schedule(experiment, stage)
    trained = select_branches(variables, stage.branches)
    state = replicate(experiment.mesh, init_state(trained, schedule.optimizer))
    template = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    started_from = digests(variables, branches_before(experiment.config.strategy, stage))
    seen = from_primary(lambda: lineage.kept(experiment.workdir)[0].digest)
    identity = {**experiment.identity, "started_from": started_from, "lineage": seen}
    with sync_call(lambda: StageCheckpoints(directory / "checkpoints")) as checkpoints:
        latest = from_primary(checkpoints.latest_step)
        if latest is not None:
            saved = checkpoints.identity(latest)
            sync_call(lambda: check_lineage(directory, saved.get("lineage"), seen))
            sync_call(lambda: check_start(directory, saved.get("started_from", {}), started_from))
        result = from_primary(lambda: read_result(experiment.workdir, stage))
        scores = result
        if scores is None:
            fit(
                experiment, stage, schedule, checkpoints, identity, state, variables, stop_requested
            )
            scores = from_primary(lambda: best_of(checkpoints))
        best = checkpoints.restore(scores["best_step"], template, identity)
    trained = jax.device_get(best.variables)
    now = digests(trained, stage.branches)
    if result is None:
        result = {**scores, "weights": now, "started_from": started_from, "lineage": seen}
        from_primary(lambda: write_json(directory / "result.json", result))
    sync_call(lambda: check_weights(directory, result, now))
    if is_primary():
        print(describe_result(stage, result, len(experiment.records.finding_columns)))
    return merge_branches(variables, trained)


def best_of(checkpoints: StageCheckpoints) -> dict[str, Any]:
    """Name a stage's best checkpoint, as `result.json` does."""
    step: Any = checkpoints.best_step()
    score: Any = checkpoints.score(step)
    return {
        "best_step": step,
        "best_val_auc_mean": score["val_auc_mean"],
        "val_auc_findings": score["val_auc_findings"],
    }


def describe_result(stage: Stage, result: dict[str, Any], findings: int) -> str:
    """Say which checkpoint of a stage was chosen, and why; `findings` is how many there are."""
    step, score = result["best_step"], result["best_val_auc_mean"]
    if score is None:
        return (
            f"stage {stage.name}: no finding has a validation AUC; the last checkpoint is used, "
            f"step {step}"
        )
    return (
        f"stage {stage.name}: best checkpoint at step {step}, mean validation AUC {score:.4f} "
        f"over {result['val_auc_findings']} of {findings} findings"
    )
