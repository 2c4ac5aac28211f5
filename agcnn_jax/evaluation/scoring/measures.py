"""All measures of scored images beside the AUC table: per finding, at thresholds, in subgroups."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from agcnn_jax.evaluation.scoring.scored import ScoredImages
from agcnn_jax.metrics.auc_table import FEW_PATIENTS
from agcnn_jax.metrics.finding_metrics import FindingMetrics, enough_patients, finding_metrics
from agcnn_jax.metrics.operating_points import OperatingPoint, operating_point
from agcnn_jax.metrics.subgroup_differences import Decisions, GroupComparison, compare_groups
from agcnn_jax.metrics.subgroups import Subgroup, subgroup_aucs
from agcnn_jax.run.calibration import Calibration

COMMON_RULE = "youden"
"""How the threshold was chosen at which groups of images are compared."""


@dataclasses.dataclass(frozen=True)
class Measures:
    """What an evaluation computes beside its AUCs.

    Attributes:
        findings: per branch and label, its measures; None where fewer than `FEW_PATIENTS` patients
            are positive or as few negative.
        operating_points: per branch, label and rule, what happens at the threshold; None where
            validation images choose none or too few patients are scored. Empty without a
            calibration.
        subgroups: AUCs by sex, age group and view.
        calibration: what validation images chose; None if there is none.
        note: why there is no calibration, or what to know about it; "" if nothing.
        comparisons: of the groups of images; their common threshold is `COMMON_RULE`'s.
    """

    findings: Mapping[str, Mapping[str, FindingMetrics | None]]
    operating_points: Mapping[str, Mapping[str, Mapping[str, OperatingPoint | None]]]
    subgroups: list[Subgroup]
    calibration: Calibration | None
    note: str
    comparisons: Sequence[GroupComparison] = ()


NO_MEASURES = Measures({}, {}, [], None, "")


def measure(scored: ScoredImages, calibration: Calibration | None, note: str = "") -> Measures:
    """Compute all measures of scored images, at the thresholds that `calibration` holds."""
    matrix, labels = scored.label_matrix, scored.labels
    _, patients = np.unique(np.asarray(scored.patient_ids), return_inverse=True)
    enough = {
        label
        for c, label in enumerate(labels)
        if enough_patients(matrix[:, c], patients, FEW_PATIENTS)
    }
    findings: dict[str, dict[str, FindingMetrics | None]] = {}
    points: dict[str, dict[str, dict[str, OperatingPoint | None]]] = {}
    for branch, probabilities in scored.probabilities.items():
        logits = scored.logits.get(branch)
        findings[branch] = {
            label: finding_metrics(
                matrix[:, c],
                probabilities[:, c],
                patients,
                None if logits is None else logits[:, c],
            )
            if label in enough
            else None
            for c, label in enumerate(labels)
        }
        if calibration is None:
            continue
        scores = logits if calibration.of_logits else probabilities
        assert scores is not None
        points[branch] = {}
        for c, label in enumerate(labels):
            choice = calibration.branches[branch].get(label)
            points[branch][label] = {
                rule: None
                if threshold is None or label not in enough
                else operating_point(matrix[:, c], scores[:, c], threshold, patients)
                for rule, threshold in (choice.thresholds if choice else {}).items()
            }
    subgroups = subgroup_aucs(
        scored.groups,
        matrix,
        scored.ranked,
        labels=labels,
        findings=scored.findings,
        patients=patients,
    )
    comparisons = compare_groups(
        subgroups,
        scored.groups,
        matrix,
        scored.ranked,
        _called(scored, calibration),
        labels=labels,
        patients=patients,
    )
    return Measures(findings, points, subgroups, calibration, note, comparisons)


def thresholds_note(measures: Measures) -> str:
    """Say which images the thresholds were chosen on, or why there are none."""
    calibration = measures.calibration
    if calibration is None:
        return f"No operating points and no Platt's numbers: {measures.note}."
    images = f"{calibration.images:,} validation images of {calibration.patients:,} patients"
    caution = f"; {measures.note}" if measures.note else ""
    return f"Thresholds and Platt's numbers come from {images}{caution}."


def _called(scored: ScoredImages, calibration: Calibration | None) -> Decisions:
    """Say which images are called positive at the threshold of `COMMON_RULE`."""
    if calibration is None:
        return {}
    scores = scored.logits if calibration.of_logits else scored.probabilities
    return {
        branch: {
            label: scores[branch][:, list(scored.labels).index(label)] >= threshold
            for label, choice in choices.items()
            if (threshold := choice.thresholds[COMMON_RULE]) is not None and label in scored.labels
        }
        for branch, choices in calibration.branches.items()
        if branch in scores
    }
