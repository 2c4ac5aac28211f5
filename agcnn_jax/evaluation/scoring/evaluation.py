"""An evaluation: everything that its tables, figures and report show, computed once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agcnn_jax.evaluation.scoring.cohort import Cohort
from agcnn_jax.evaluation.scoring.comparison import Difference, compare_models
from agcnn_jax.evaluation.scoring.films import Films
from agcnn_jax.evaluation.scoring.localisation import Localisation
from agcnn_jax.evaluation.scoring.matches import Match
from agcnn_jax.evaluation.scoring.measures import NO_MEASURES, Measures, measure
from agcnn_jax.evaluation.scoring.radiologists import Agreement
from agcnn_jax.evaluation.scoring.scored import ScoredImages, branch_aucs
from agcnn_jax.evaluation.scoring.subsets import FlowRow, SubsetCounts
from agcnn_jax.evaluation.scoring.validation import Validated
from agcnn_jax.metrics.auc_table import BranchAUC
from agcnn_jax.run.lineage import Lineage
from agcnn_jax.runtime.errors import UserError


@dataclasses.dataclass(frozen=True)
class EvaluatedModel:
    """The model that made the predictions.

    Attributes:
        settings: names and values for the report; nested mappings are flattened with dots.
        lineage: what it was trained on, to lie beside its predictions.
        weights: per branch, the digest of its weights.
    """

    settings: Mapping[str, Any]
    lineage: Lineage
    weights: Mapping[str, str]


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """Everything that is computed from scored images, and known about them and the model.

    Attributes:
        scored: the images, their labels and predictions.
        cohort: describes the images.
        results: per branch or file, its AUCs.
        measures: everything else per finding; `NO_MEASURES` where only AUCs were asked for.
        compared: two files whose differences the AUC table tests; None for other evaluations.
        differences: the first of `pair` minus the second; empty without a pair.
        agreement: the predictions and NIH's labels against radiologists, whose labels `scored`
            has; empty for other labels.
        model: None for a file of predictions.
        localisation: where the model looked; None if that is not known.
        films: examples for the report; None leaves them out.
        flow: how many images there were at each step.
        subsets: who is in each subset, for Table 1.
        notes: lines about the model and the files, for below the AUC table.
        digits: of the AUCs in the table.
        matches: of the model's findings with the data's labels; empty where all are the same.
        external: a run is scored on another collection than its own.
    """

    scored: ScoredImages
    cohort: Cohort
    results: Mapping[str, BranchAUC]
    measures: Measures = NO_MEASURES
    compared: tuple[str, str] | None = None
    differences: Sequence[Difference] = ()
    agreement: Sequence[Agreement] = ()
    model: EvaluatedModel | None = None
    localisation: Localisation | None = None
    films: Films | None = None
    flow: Sequence[FlowRow] = ()
    subsets: Sequence[SubsetCounts] = ()
    notes: tuple[str, ...] = ()
    digits: int = 3
    matches: Sequence[Match] = ()
    external: bool = False

    @property
    def pair(self) -> tuple[str, str] | None:
        """The two files or branches whose difference is computed."""
        return _pair(self.results, self.compared)


def compute(
    scored: ScoredImages,
    cohort: Cohort,
    validated: Validated | None,
    compared: tuple[str, str] | None = None,
) -> Evaluation:
    """Compute all that labels and predictions say.

    Args:
        scored: the images, their labels and predictions.
        cohort: describes the images.
        validated: what validation images chose; None computes AUCs alone.
        compared: two files of predictions to compare; fusion and global always are.

    Returns:
        The evaluation; what else is known is added with `dataclasses.replace`.

    Raises:
        UserError: if a score is not finite.
        ValueError: if shapes disagree.
    """
    check_finite(scored, cohort.split)
    results = branch_aucs(scored)
    pair = _pair(results, compared)
    return Evaluation(
        scored,
        cohort,
        results,
        measures=NO_MEASURES if validated is None else measure(scored, *validated),
        compared=compared,
        differences=compare_models(results[pair[0]], results[pair[1]]) if pair else (),
    )


def check_finite(scored: ScoredImages, split: str | None) -> None:
    """Raise `UserError` if a branch's scores hold NaN or infinity."""
    for branch, matrix in scored.ranked.items():
        columns = np.flatnonzero(~np.isfinite(matrix).all(axis=0))
        if len(columns):
            raise UserError(
                f"the {branch} branch gives NaN or infinity for {scored.labels[columns[0]]} on the "
                f"{split} split: its training diverged; train that stage again with a lower "
                f"learning rate"
            )


def _pair(
    results: Mapping[str, BranchAUC], compared: tuple[str, str] | None
) -> tuple[str, str] | None:
    return compared or (("fusion", "global") if {"fusion", "global"} <= set(results) else None)
