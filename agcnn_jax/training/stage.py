"""Training one stage: start or resume, fit, keep the best."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from agcnn_jax.config.strategies import Stage, branches_before
from agcnn_jax.metrics.auc import mean_auc
from agcnn_jax.metrics.auc_table import FEW_PATIENTS
from agcnn_jax.models.agcnn import Variables, merge_branches
from agcnn_jax.run import stage_results
from agcnn_jax.run.checkpoints import StageCheckpoints
from agcnn_jax.run.run import Run
from agcnn_jax.runtime.preemption import StopRequest
from agcnn_jax.runtime.processes import announce, from_primary
from agcnn_jax.runtime.progress import write_line
from agcnn_jax.runtime.storage import write_json
from agcnn_jax.training.fit import fit
from agcnn_jax.training.prediction import Selection, select_findings
from agcnn_jax.training.schedule import make_schedule

HEADING = "AUC, validation images"


def train_stage(
    run: Run, stage: Stage, variables: Variables, lineage: str, stop: StopRequest
) -> Variables:
    """Train a stage, resume it, or only load it if it has finished.

    Takes and returns all branches: with the earlier stages trained, and then this one too, as in
    its best checkpoint. `lineage` is the digest of what the run's weights have seen. `UserError` if
    the stage belongs to another run, or started from other weights than the stages before it have.
    """
    directory = stage_results.stage_directory(run.workdir, stage)
    selection = select_findings(run)
    earlier = stage_results.digests(variables, branches_before(run.config.strategy, stage))
    origin = {"started_from": earlier, "lineage": lineage}
    identity = {**run.identity, **origin}
    with StageCheckpoints(directory / "checkpoints", identity) as checkpoints:
        finished = from_primary(lambda: stage_results.read_result(directory))
        latest, _ = checkpoints.resume_point()
        if latest:
            saved = checkpoints.identity(latest)
            stage_results.check_origin(directory, saved, lineage, earlier)
        if not finished:
            if selection.patients:
                announce(describe_selection(stage, selection, len(run.records.findings)))
            fit(run, make_schedule(run, stage), checkpoints, variables, stop)
        scores = finished or best_scores(checkpoints)
        best, _ = checkpoints.restore_best(scores["best_step"])
    trained = best["variables"]
    now = stage_results.digests(trained, stage.branches)
    size = run.records.image_size
    result = finished or {**scores, "weights": now, **origin, "image_size": size}

    def keep() -> None:
        stage_results.check_weights(directory, result, now)
        if not finished:
            write_json(directory / "result.json", result)
        write_line(describe_result(stage, result, len(run.records.finding_columns)), sys.stdout)
        if not finished:
            done = stage_results.finished_stages(run.workdir, run.config.strategy)
            write_line(validation_table([r for _, r in done], selection.findings), sys.stdout)

    from_primary(keep)
    return merge_branches(variables, trained)


def best_scores(checkpoints: StageCheckpoints) -> dict[str, Any]:
    """Describe a stage's best checkpoint as `result.json` does."""
    score = checkpoints.best_score()
    best = {"best_step": score["step"], "best_val_auc_mean": score["val_auc_mean"]}
    return best | {key: score[key] for key in ("val_auc_findings", "val_auc")}


def describe_selection(stage: Stage, selection: Selection, findings: int) -> str:
    """Say which of so many findings select a stage's checkpoint, where labels are missing."""
    chosen, few = selection
    least = f"{FEW_PATIENTS} positive and {FEW_PATIENTS} negative known validation patients"
    if chosen:
        which = f"with at least {least}" if few > 1 else f"that have one, since none has {least}"
        what = f"the mean validation AUC covers the {len(chosen)} of {findings} findings {which}: "
    else:
        what = "no finding has a validation AUC, so the last checkpoint will be used"
    return f"stage {stage.name}: labels are missing; {what}{', '.join(chosen)}"


def describe_result(stage: Stage, result: dict[str, Any], findings: int) -> str:
    """Say which checkpoint of a stage was chosen, and why; `findings` counts all findings."""
    step, score = result["best_step"], result["best_val_auc_mean"]
    if score is None:
        why = f"no finding has a validation AUC; the last checkpoint is used, step {step}"
    else:
        why = (
            f"best checkpoint at step {step}, mean validation AUC {score:.4f} over "
            f"{result['val_auc_findings']} of {findings} findings"
        )
    return f"stage {stage.name}: {why}"


def validation_table(results: Sequence[Mapping[str, Any]], selecting: Sequence[str]) -> str:
    """Show the validation AUCs of all branches that the finished stages, with these results, made.

    One line for each finding, and the mean over those that select checkpoints; a dash where an AUC
    does not exist. A branch that a later stage trained again has the later values.
    """
    branches: dict[str, Mapping[str, float | None]] = {}
    for result in results:
        branches |= result["val_auc"]
    rows = {
        name: [aucs[name] for aucs in branches.values()]
        for aucs in branches.values()
        for name in aucs
    }
    mean = "mean" if set(rows) <= set(selecting) else f"mean of {len(selecting)}"
    rows[mean] = [
        mean_auc({name: auc for name, auc in aucs.items() if name in selecting}).mean
        for aucs in branches.values()
    ]
    width = max(map(len, [*rows, HEADING]))
    lines = [HEADING.ljust(width) + "".join(f"  {branch:>6}" for branch in branches)]
    for name, values in rows.items():
        cells = ("-" if value is None else f"{value:.3f}" for value in values)
        lines.append(name.ljust(width) + "".join(f"  {cell:>6}" for cell in cells))
    return "\n".join(lines)
