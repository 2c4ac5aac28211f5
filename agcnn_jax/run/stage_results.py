"""What the finished stages of a run have left: their results and their best weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orbax.checkpoint as ocp
from etils import epath

from agcnn_jax.models.agcnn import Variables
from agcnn_jax.run import lineage
from agcnn_jax.run.checkpoint_errors import train_again
from agcnn_jax.run.checkpoints import StageCheckpoints
from agcnn_jax.run.lineage import digest
from agcnn_jax.run.strategies import Stage, stages
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.storage import exists, read_json, reported
from agcnn_jax.training.steps import merge_branches, select_branches


def stage_directory(workdir: epath.Path, stage: Stage) -> epath.Path:
    """Where a stage keeps its checkpoints and its result."""
    return workdir / "stages" / stage.name


def read_result(workdir: epath.Path, stage: Stage) -> dict[str, Any] | None:
    """Read a finished stage's `result.json`; None while it is not finished.

    Returns:
        `best_step`, `best_val_auc_mean`, `val_auc_findings`; `weights`, the digest of each branch
        that the stage trained, at its best step; `started_from`, that of each branch trained before
        it; and `lineage`, the digest of the run's.
    """
    directory = stage_directory(workdir, stage)
    path = directory / "result.json"
    if not exists(path):
        return None
    again = "delete it and run the train.py command again, which writes it from the checkpoints"
    result = read_json(path, again)
    if (
        not isinstance(result.get("best_step"), int)
        or not {"best_val_auc_mean", "val_auc_findings", "lineage"} <= set(result)
        or not all(isinstance(result.get(key), dict) for key in ("weights", "started_from"))
    ):
        raise UserError(f"{path} is damaged; {again}")
    if not exists(directory / "checkpoints" / str(result["best_step"])):
        raise UserError(
            f"{path} names checkpoint {result['best_step']}, which is not there any more; "
            f"{train_again(directory)}"
        )
    return result


def finished_stages(workdir: epath.Path, strategy: str) -> list[tuple[Stage, dict[str, Any]]]:
    """Read the results of the stages that are finished, up to the first that is not.

    Raises:
        UserError: if one is of another run, or was trained from other weights than the stages
            before it have now.
    """
    finished: list[tuple[Stage, dict[str, Any]]] = []
    trained: dict[str, str] = {}
    for stage in stages(strategy):
        result = read_result(workdir, stage)
        if result is None:
            break
        if not finished:
            # Read once for all stages; before the first is finished there may be none.
            seen = lineage.kept(workdir)[0].digest
        directory = stage_directory(workdir, stage)
        check_lineage(directory, result["lineage"], seen)
        check_start(directory, result["started_from"], trained)
        trained |= result["weights"]
        finished.append((stage, result))
    return finished


def has_started(workdir: epath.Path, stage: Stage) -> bool:
    """Whether a stage has a checkpoint, from which it goes on."""
    directory = stage_directory(workdir, stage) / "checkpoints"
    with reported(directory, "read"):
        return directory.exists() and bool(ocp.utils.checkpoint_steps(directory))


def trained_from_what_is_gone(workdir: epath.Path, strategy: str) -> list[str]:
    """Name the stages that have begun although one before them has not: it was deleted."""
    begun = [(stage.name, has_started(workdir, stage)) for stage in stages(strategy)]
    first = next((i for i, (_, started) in enumerate(begun) if not started), len(begun))
    return [name for name, started in begun[first:] if started]


def digests(variables: Variables, branches: Iterable[str]) -> dict[str, str]:
    """Hash the weights and statistics of each of some branches."""
    return {branch: digest(select_branches(variables, (branch,))) for branch in branches}


def check_lineage(directory: epath.Path, stages: str | None, runs: str) -> None:
    """Refuse a stage that another run left, or that was trained before `lineage.json` was changed.

    Args:
        directory: of the stage.
        stages: the digest of the lineage that it was trained with.
        runs: that of the run's lineage now.

    Raises:
        UserError: naming the folders to delete.
    """
    if stages != runs:
        raise UserError(
            f"{directory} was trained on other images (lineage {stages}) than "
            f"{directory.parent.parent / lineage.FILE} names (lineage {runs}); put its own back, "
            f"or {train_again(directory)}"
        )


def check_start(
    directory: epath.Path, started_from: Mapping[str, str], earlier: Mapping[str, str]
) -> None:
    """Refuse a stage that was trained from other weights than the stages before it have now.

    Args:
        directory: of the stage.
        started_from: as its checkpoints say, the digest of each branch trained before it.
        earlier: the digests now.

    Raises:
        UserError: naming the folders to delete.
    """
    for branch, now in earlier.items():
        if started_from.get(branch) != now:
            raise UserError(
                f"{directory} was trained from a {branch} branch with digest "
                f"{started_from.get(branch)}, but the stage before it has one with digest {now} "
                f"now; {train_again(directory)}"
            )


def check_weights(directory: epath.Path, result: Mapping[str, Any], now: Mapping[str, str]) -> None:
    """Refuse a stage whose best checkpoint is not the one that its `result.json` was written for.

    Raises:
        UserError: naming the folders to delete.
    """
    if result["weights"] != now:
        raise UserError(
            f"checkpoint {directory}/checkpoints/{result['best_step']} holds other weights than "
            f"{directory}/result.json was written for; {train_again(directory)}"
        )


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
        UserError: if no stage is finished, or one was trained from other weights than the stages
            before it have now.
    """
    variables: Variables = {"params": {}, "batch_stats": {}}
    saved: dict[str, Any] = {}
    for stage, result in finished_stages(workdir, strategy):
        directory = stage_directory(workdir, stage)
        with StageCheckpoints(directory / "checkpoints", read_only=True) as checkpoints:
            best, saved = checkpoints.restore_best(identity, result["best_step"])
        check_weights(directory, result, digests(best["variables"], stage.branches))
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
