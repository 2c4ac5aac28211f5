"""The stages of a run on disk: results, best weights, and whether they belong together."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import orbax.checkpoint as ocp
from etils import epath

from agcnn_jax.config import kinds
from agcnn_jax.config.kinds import ANY, OBJECT, WHOLE, check_entries, count_from
from agcnn_jax.config.strategies import Stage, stages
from agcnn_jax.models.agcnn import Variables, merge_branches, select_branches
from agcnn_jax.run import lineage
from agcnn_jax.run.checkpoints import StageCheckpoints, train_again
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.storage import exists, read_json, reported

_AUC = (kinds.or_none(kinds.NUMBER), kinds.between(0, 1))
_ENTRIES = {
    "best_step": (WHOLE, count_from(1)),
    "best_val_auc_mean": _AUC,
    "val_auc_findings": (WHOLE, count_from(0)),
    "weights": (OBJECT, ANY),
    "started_from": (OBJECT, ANY),
    "lineage": (kinds.TEXT, ANY),
    "image_size": (WHOLE, count_from(1)),
    "val_auc": (OBJECT, ANY),
}


def stage_directory(workdir: epath.Path, stage: Stage) -> epath.Path:
    """Return the folder of a stage's checkpoints and result."""
    return workdir / "stages" / stage.name


def read_result(directory: epath.Path) -> dict[str, Any] | None:
    """Read a stage's `result.json`; None if the stage has not finished.

    It holds `best_step`, `best_val_auc_mean` and `val_auc_findings`; `weights`, the digest of each
    branch that the stage trained, at that step; `started_from`, the digest of each branch trained
    before it; `lineage`, the digest of the run's lineage; `image_size`, the side of the stored
    images in pixels; and `val_auc`, `{branch: {finding: AUC}}` at the best step.
    """
    path = directory / "result.json"
    if not exists(path):
        return None
    again = "delete it and run the train.py command again, which writes it from the checkpoints"
    result = read_json(path, again)
    check_entries(result, _ENTRIES, str(path), again)
    branches = dict.fromkeys(result["val_auc"], (OBJECT, ANY))
    check_entries(result["val_auc"], branches, f"{path}, val_auc", again)
    for branch, aucs in result["val_auc"].items():
        check_entries(aucs, dict.fromkeys(aucs, _AUC), f"{path}, val_auc, {branch}", again)
    if not exists(directory / "checkpoints" / str(result["best_step"])):
        raise UserError(
            f"{path} names checkpoint {result['best_step']}, which is no longer there; "
            f"{train_again(directory)}"
        )
    return result


def finished_stages(workdir: epath.Path, strategy: str) -> list[tuple[Stage, dict[str, Any]]]:
    """Read the results of the stages up to the first that has not finished.

    `UserError` if `check_origin` refuses one.
    """
    finished: list[tuple[Stage, dict[str, Any]]] = []
    trained: dict[str, str] = {}
    for stage in stages(strategy):
        result = read_result(directory := stage_directory(workdir, stage))
        if result is None:
            break
        if not finished:
            # Until a stage has finished, there may be no lineage.
            seen = lineage.read(workdir)[0].digest
        check_origin(directory, result, seen, trained)
        trained |= result["weights"]
        finished.append((stage, result))
    return finished


def has_started(workdir: epath.Path, stage: Stage) -> bool:
    """Tell whether a stage has a checkpoint."""
    directory = stage_directory(workdir, stage) / "checkpoints"
    with reported(directory, "read"):
        return directory.exists() and bool(ocp.utils.checkpoint_steps(directory))


def orphaned_stages(workdir: epath.Path, strategy: str) -> list[str]:
    """Name the stages that have started although a stage before them has been deleted."""
    rest = itertools.dropwhile(lambda stage: has_started(workdir, stage), stages(strategy))
    return [stage.name for stage in rest if has_started(workdir, stage)]


def digests(variables: Variables, branches: Iterable[str]) -> dict[str, str]:
    """Hash the weights and statistics of each of the given branches."""
    return {branch: lineage.digest(select_branches(variables, (branch,))) for branch in branches}


def check_origin(
    directory: epath.Path, saved: Mapping[str, Any], lineage_digest: str, earlier: Mapping[str, str]
) -> None:
    """Check that a stage is of this run, and trained from the weights that the run has now.

    The stage says in `saved` what its `lineage` is, and in `started_from` the digest of each branch
    trained before it; the run's own are `lineage_digest` and `earlier`. `UserError` names the
    folders to delete.
    """
    if saved.get("lineage") != lineage_digest:
        raise UserError(
            f"{directory} was trained on other images (lineage {saved.get('lineage')}) than "
            f"{directory.parent.parent / lineage.FILE} names (lineage {lineage_digest}); put its "
            f"own back, or {train_again(directory)}"
        )
    for branch, now in earlier.items():
        then = saved.get("started_from", {}).get(branch)
        if then != now:
            raise UserError(
                f"{directory} was trained from a {branch} branch with digest {then}, but the stage "
                f"before it now has one with digest {now}; {train_again(directory)}"
            )


def check_weights(directory: epath.Path, result: Mapping[str, Any], now: Mapping[str, str]) -> None:
    """Check that a best checkpoint, with digests `now`, is what the stage's result says."""
    if result["weights"] != now:
        raise UserError(
            f"checkpoint {directory}/checkpoints/{result['best_step']} holds other weights than "
            f"{directory}/result.json was written for; {train_again(directory)}"
        )


def load_best(
    directory: epath.Path, stage: Stage, result: Mapping[str, Any], identity: dict[str, Any]
) -> tuple[Variables, dict[str, Any]]:
    """Load the best checkpoint of a finished stage, and all that its weights belong to.

    `UserError` if it cannot be read, or does not fit the stage's `result` or `identity`.
    """
    with StageCheckpoints(directory / "checkpoints", identity, read_only=True) as checkpoints:
        best, saved = checkpoints.restore_best(result["best_step"])
    check_weights(directory, result, digests(best["variables"], stage.branches))
    return best["variables"], saved


def finished_variables(
    workdir: epath.Path, strategy: str, identity: dict[str, Any]
) -> tuple[Variables, dict[str, Any]]:
    """Load the branches of all finished stages to host memory; later stages win.

    Also returns all that the weights of the last stage belong to, and its `image_size`. `UserError`
    if no stage has finished, or one does not fit the run or `identity`.
    """
    variables: Variables = {"params": {}, "batch_stats": {}}
    saved: dict[str, Any] = {}
    for stage, result in finished_stages(workdir, strategy):
        best, saved = load_best(stage_directory(workdir, stage), stage, result, identity)
        variables = merge_branches(variables, best)
    if not variables["params"]:
        raise UserError(
            f"no stage has finished in --workdir {workdir}; run the same python train.py command "
            f"again to continue"
        )
    saved["image_size"] = result["image_size"]
    # Orbax leaves out branches without statistics.
    for branch in variables["params"]:
        variables["batch_stats"].setdefault(branch, {})
    return variables, saved
