"""The area under the ROC curve, from ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from agcnn_jax.metrics.influence import Influence, influence_of
from agcnn_jax.metrics.known_labels import MISSING


class MeanAUC(NamedTuple):
    """The mean over the findings that have an AUC, and how many have one and how many do not."""

    mean: float | None
    present: int
    missing: int


class Ranks(NamedTuple):
    """The rank of each positive among the sorted negatives; an AUC depends on nothing else."""

    positives: np.ndarray  # int64 [P], indices of images
    negatives: np.ndarray  # int64 [M], indices of images by rising score
    below: np.ndarray  # int64 [P], number of negatives with a lower score
    not_above: np.ndarray  # int64 [P], number of negatives with a lower or the same score


def rank_scores(labels: np.ndarray, scores: np.ndarray, name: str = "") -> Ranks:
    """Rank scores `[N]` of images with labels `[N]`; see `auc` for the arguments and errors.

    Images whose label is `MISSING` are on neither side, so that their scores do not matter.
    """
    labels, scores = np.asarray(labels), np.asarray(scores)
    where = f"{name}: " if name else ""
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise ValueError(f"{where}labels {labels.shape} and scores {scores.shape} must both be [N]")
    if not np.isin(labels, (0, 1, MISSING)).all():
        raise ValueError(f"{where}labels must be 0 or 1, or {MISSING} where not known")
    if (bad := int(np.isnan(scores).sum())) > 0:
        raise ValueError(f"{where}{bad} of {len(scores)} scores are NaN; an AUC needs numbers")
    positives, negatives = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    negatives = negatives[np.argsort(scores[negatives], kind="stable")]
    sorted_scores = scores[negatives]
    return Ranks(
        positives,
        negatives,
        np.searchsorted(sorted_scores, scores[positives], side="left"),
        np.searchsorted(sorted_scores, scores[positives], side="right"),
    )


def plain_auc(ranks: Ranks) -> float | None:
    """AUC from ranks; None without a positive or without a negative."""
    pairs = len(ranks.positives) * len(ranks.negatives)
    # A positive wins against every negative below it; a tie counts half.
    twice_wins = int(ranks.below.sum() + ranks.not_above.sum())
    return twice_wins / 2 / pairs if pairs else None


def patient_influence(ranks: Ranks, patient: np.ndarray, known: np.ndarray) -> Influence:
    """Influence of each of K patients on an AUC that exists; 0 of those without a known label.

    Args:
        ranks: of the N images.
        patient: int `[N]`, the index of each image's patient.
        known: bool `[K]`, see `known_patients`.
    """
    positives, negatives = len(ranks.positives), len(ranks.negatives)
    # A positive that has `below` negatives under it fails to beat every later one.
    lost = np.bincount(ranks.below, minlength=negatives + 1)
    tied_or_lost = np.bincount(ranks.not_above, minlength=negatives + 1)
    not_won = np.cumsum(lost + tied_or_lost)[:negatives]
    wins = (
        (ranks.below + ranks.not_above) / (2 * negatives),
        1 - not_won / (2 * positives),
    )
    return influence_of(wins, (patient[ranks.positives], patient[ranks.negatives]), known)


def auc(labels: np.ndarray, scores: np.ndarray, name: str = "") -> float | None:
    """The probability that a positive image scores above a negative one; ties count half.

    This is the Mann-Whitney statistic, computed from ranks in O(N log N). It equals
    `sklearn.metrics.roc_auc_score`.

    Args:
        labels: `[N]`: 0, 1 or `MISSING`.
        scores: `[N]`, any real numbers; only their order matters.
        name: the finding, for error messages.

    Returns:
        The AUC in [0, 1], or None without a positive or without a negative.

    Raises:
        ValueError: if shapes differ, a label is none of these, or a score is NaN.
    """
    return plain_auc(rank_scores(labels, scores, name))


def mean_auc(values: Mapping[str, float | None]) -> MeanAUC:
    """Average the AUCs that exist; a missing one counts neither as 0 nor as 0.5.

    Args:
        values: AUC per finding, None where it is undefined; leave "No Finding" out.
    """
    present = [value for value in values.values() if value is not None]
    mean = float(np.mean(present)) if present else None
    return MeanAUC(mean, len(present), len(values) - len(present))
