"""What the finished stages of a run have left: their results and their best weights."""

from __future__ import annotations

from typing import Any

from etils import epath

from agcnn_jax.errors import UserError
from agcnn_jax.models.agcnn import Variables
from agcnn_jax.storage import exists, read_json
from agcnn_jax.training import checkpoints
from agcnn_jax.training.steps import merge_branches
from agcnn_jax.training.strategies import Stage, stages


def stage_directory(workdir: epath.Path, stage: Stage) -> epath.Path:
    """Where a stage keeps its checkpoints and its result."""
    return workdir / "stages" / stage.name


def read_result(workdir: epath.Path, stage: Stage) -> dict[str, Any] | None:
    """Read a finished stage's `result.json`; None while it is not finished."""
    directory = stage_directory(workdir, stage)
    path = directory / "result.json"
    if not exists(path):
        return None
    result = read_json(path, "delete it and run the train.py command again to make it anew")
    if not isinstance(result.get("best_step"), int) or "best_val_auc_mean" not in result:
        raise UserError(f"{path} is damaged; delete it and run the train.py command again")
    if not exists(directory / "checkpoints" / str(result["best_step"])):
        raise UserError(
            f"{path} names checkpoint {result['best_step']}, which is not there any more; delete "
            f"{directory} and run the train.py command again to train that stage anew"
        )
    return result


def finished_variables(
    workdir: epath.Path, strategy: str, identity: dict[str, Any]
) -> tuple[Variables, dict[str, Any]]:
    """Load the branches of all finished stages, to host memory; later stages win.

    Args:
        workdir: of the run.
        strategy: whose stages to look for.
        identity: what the weights must be of.

    Returns:
        The variables of the trained branches, and all that their checkpoints say they are of.

    Raises:
        UserError: if no stage is finished.
    """
    variables: Variables = {"params": {}, "batch_stats": {}}
    saved: dict[str, Any] = {}
    for stage in stages(strategy):
        result = read_result(workdir, stage)
        if result is None:
            break
        with checkpoints.reading(stage_directory(workdir, stage) / "checkpoints") as manager:
            best, saved = checkpoints.restore_best(manager, identity, result["best_step"])
        variables = merge_branches(variables, best["variables"])
    if not variables["params"]:
        raise UserError(
            f"no stage is finished in --workdir {workdir}; run the same python train.py command "
            f"again to go on"
        )
    # Orbax leaves out branches without statistics.
    for branch in variables["params"]:
        variables["batch_stats"].setdefault(branch, {})
    return variables, saved
