"""Scored images: what was predicted for them, and what is known about them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agcnn_jax.data.coordinates import to_original_pixels
from agcnn_jax.data.labels import NO_FINDING
from agcnn_jax.evaluation.scoring.matches import Match, scored_pairs
from agcnn_jax.metrics.auc_table import BranchAUC, auc_table
from agcnn_jax.metrics.subgroups import image_groups
from agcnn_jax.run.run import Run
from agcnn_jax.training.prediction import Prediction


@dataclasses.dataclass(frozen=True)
class ScoredImages:
    """Images with their labels and predictions.

    Attributes:
        image_ids: names `[N]`.
        patient_ids: `[N]`.
        labels: names of the C columns.
        findings: the labels to average over.
        label_matrix: uint8 `[N, C]`: 0, 1 or `MISSING`.
        probabilities: per branch or file, float `[N, C]`.
        logits: the same before the sigmoid, which AUCs rank; without branches of which only the
            probabilities are known.
        boxes: int32 `[N, 4]`, xmin, ymin, xmax, ymax, half-open, in pixels of the original image;
            None if nothing was cropped.
        groups: per attribute, such as "sex", the group of each image, str `[N]`.
        pooled: the global branch's pooled features, float32 `[N, K]`; None where not kept.
    """

    image_ids: Sequence[str]
    patient_ids: Sequence[Any] | np.ndarray
    labels: Sequence[str]
    findings: Sequence[str]
    label_matrix: np.ndarray
    probabilities: Mapping[str, np.ndarray]
    logits: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    boxes: np.ndarray | None = None
    groups: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    pooled: np.ndarray | None = None

    @property
    def ranked(self) -> Mapping[str, np.ndarray]:
        """What AUCs rank: the logits, since probabilities tie near 0 and 1, if they are known."""
        return {**self.probabilities, **self.logits}


def branch_aucs(scored: ScoredImages) -> dict[str, BranchAUC]:
    """Compute the AUCs of every branch or file; `ValueError` if shapes disagree."""
    return auc_table(
        scored.label_matrix,
        scored.ranked,
        labels=scored.labels,
        findings=scored.findings,
        patient_ids=scored.patient_ids,
    )


def scored_images(
    run: Run, matches: Sequence[Match], indices: np.ndarray, prediction: Prediction
) -> ScoredImages:
    """Put the labels and predictions of records `indices` side by side, for the scored matches."""
    records = run.records
    boxes = None
    if prediction.boxes is not None:
        boxes = to_original_pixels(
            prediction.boxes,
            run.config.input_size,
            records.image_size,
            np.stack([records.widths[indices], records.heights[indices]], axis=-1),
        )
    pairs = scored_pairs(matches)
    columns = [records.labels.index(pair.theirs) for pair in pairs]
    outputs = [pair.output for pair in pairs]

    def chosen(scores: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {branch: matrix[:, outputs] for branch, matrix in scores.items()}

    return ScoredImages(
        image_ids=records.image_ids[indices],
        patient_ids=records.patient_ids[indices],
        labels=tuple(pair.ours for pair in pairs),
        findings=tuple(
            pair.ours
            for pair in pairs
            if pair.theirs in records.findings and pair.ours != NO_FINDING
        ),
        label_matrix=records.label_matrix[indices][:, columns],
        probabilities=chosen(prediction.probabilities),
        logits=chosen(prediction.logits),
        boxes=boxes,
        groups=image_groups(
            records.ages[indices].tolist(),
            records.sexes[indices].tolist(),
            records.views[indices].tolist(),
        ),
        pooled=prediction.pooled,
    )
