"""Logits and boxes of a subset, and the validation scores that come from them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.special import expit

from agcnn_jax.config.strategies import Stage
from agcnn_jax.data.pipeline import evaluation_batches
from agcnn_jax.metrics.auc import auc, mean_auc
from agcnn_jax.metrics.auc_table import FEW_PATIENTS
from agcnn_jax.metrics.finding_metrics import enough_patients
from agcnn_jax.models.agcnn import BRANCHES, Variables, merge_branches
from agcnn_jax.run.run import Run
from agcnn_jax.runtime.devices import gather_batches, local_rows, shard_batch
from agcnn_jax.runtime.processes import is_primary, process_share
from agcnn_jax.runtime.progress import Progress
from agcnn_jax.training.predict_step import make_predict_step
from agcnn_jax.training.steps import TrainState


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The model's answers for N images."""

    logits: dict[str, np.ndarray]  # {branch: float32 [N, C]}, before the sigmoid of Eq. 1
    boxes: np.ndarray | None  # int32 [N, 4], pixels of the model's input; None without crops
    pooled: np.ndarray | None = None  # float32 [N, K], the global branch's Pool5; None unless asked

    @property
    def probabilities(self) -> dict[str, np.ndarray]:
        """`{branch: float32 [N, C]}`, Eq. 1; large logits tie here, so AUCs rank the logits."""
        return {branch: expit(logits) for branch, logits in self.logits.items()}


def predict(
    step: Callable[..., Any],
    variables: Variables,
    run: Run,
    indices: np.ndarray,
    description: str,
    after_batch: Callable[[], None] = lambda: None,
    pooled: bool = False,
    compiled: bool = False,
) -> Prediction:
    """Run a `make_predict_step` over the records `indices`, int64 `[N]`, N at least 1.

    Every process reads its share of each batch; the results are gathered once, at the end, without
    the rows that only fill the last batch. `variables` are replicated over the mesh. Every process
    calls `after_batch` after every batch; it may raise to end the prediction. `pooled` keeps the
    pooled features, if the step returns them. `compiled` says that the step has run before.
    """
    left_out = () if pooled else ("pooled",)
    rows: list[dict[str, np.ndarray]] = []
    source, batch_size = run.records.images_and_labels(), run.config.eval_batch_size
    batches = evaluation_batches(source, indices, batch_size, *process_share())
    bar = Progress(description, len(indices), "images", shown=is_primary(), keep=False)
    waiting: dict[str, jax.Array] = {}
    with contextlib.closing(batches), bar:
        for batch in batches:
            compiling = bar.done == 0 and not compiled
            with bar.compiling() if compiling else contextlib.nullcontext():
                outputs = step(variables, shard_batch(run.mesh, batch["image"]))
            # Fetching one batch late keeps the device busy and memory bounded.
            if waiting:
                rows.append(local_rows(run.mesh, waiting))
            waiting = {name: one for name, one in outputs.items() if name not in left_out}
            bar.update(min(batch_size, len(indices) - bar.done), timed=not compiling)
            after_batch()
    rows.append(local_rows(run.mesh, waiting))
    merged = {name: values[: len(indices)] for name, values in gather_batches(rows).items()}
    # A jitted function sorts a dict by its keys; tables show the branches in their own order.
    logits = {branch: merged[branch] for branch in BRANCHES if branch in merged}
    return Prediction(logits, merged.get("boxes"), merged.get("pooled"))


class Selection(NamedTuple):
    """The findings whose mean validation AUC selects a stage's best checkpoint.

    Attributes:
        findings: their names. One without an AUC counts neither as 0 nor as 0.5.
        patients: least number of validation patients known to have each of them, and of those known
            not to; 0 where no label is missing, and every finding counts.
    """

    findings: tuple[str, ...]
    patients: int


def select_findings(run: Run) -> Selection:
    """Choose what the mean covers, the same for all epochs, stages and branches of a run.

    Where labels are missing, it covers the findings that `FEW_PATIENTS` validation patients are
    known to have, and as many not to have; if there are none, the findings with an AUC.
    """
    records, indices = run.records, run.split.validation
    if not records.has_missing:
        return Selection(records.findings, 0)
    labels, patients = records.label_matrix[indices], records.patient_ids[indices]
    for few in (FEW_PATIENTS, 1):
        chosen = tuple(
            records.labels[c]
            for c in records.finding_columns
            if enough_patients(labels[:, c], patients, few)
        )
        if chosen:
            break
    return Selection(chosen, few)


def make_validation(
    run: Run, stage: Stage, frozen: Variables
) -> Callable[[TrainState, Callable[[], None], bool], dict[str, Any]]:
    """Make the function that scores a state's trained branches on the validation subset.

    It calls its second argument after every batch; the third says that it ran before. It returns
    `val_auc_mean` of the branch that selects the stage's best checkpoint (Section III-C), over the
    findings that `select_findings` chooses; `val_auc_findings`, the number of findings in that
    mean; `val_auc_mean_<branch>`; and `val_auc`, `{branch: {finding: AUC}}`, of all findings, over
    the images whose label is known. An AUC that does not exist is None. It raises
    `FloatingPointError` if a logit is not finite.
    """
    step = make_predict_step(run.recipe, run.mesh, stage.branches)
    records, indices = run.records, run.split.validation
    labels = records.label_matrix[indices]
    chosen = select_findings(run).findings

    def validate(
        state: TrainState, after_batch: Callable[[], None], compiled: bool = False
    ) -> dict[str, Any]:
        variables = merge_branches(frozen, state.variables)
        made = predict(step, variables, run, indices, "validation", after_batch, compiled=compiled)
        if not all(np.isfinite(scores).all() for scores in made.logits.values()):
            raise FloatingPointError("validation logits are not finite")
        columns = records.finding_columns
        aucs = {
            branch: {records.labels[i]: auc(labels[:, i], scores[:, i]) for i in columns}
            for branch, scores in made.logits.items()
        }
        means = {
            branch: mean_auc({finding: values[finding] for finding in chosen})
            for branch, values in aucs.items()
        }
        selecting = means[stage.selects_by]
        return {
            "val_auc_mean": selecting.mean,
            "val_auc_findings": selecting.present,
            **{f"val_auc_mean_{branch}": one.mean for branch, one in means.items()},
            "val_auc": aucs,
        }

    return validate
