"""The scores of attended regions and class-specific maps as numbers: CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from agcnn_jax.evaluation.scoring.cohort import Cohort
from agcnn_jax.evaluation.scoring.localisation import Localisation
from agcnn_jax.evaluation.scoring.references import load
from agcnn_jax.metrics.interval import Interval
from agcnn_jax.metrics.localisation import IOBB_THRESHOLDS, IOU_THRESHOLDS, Scores

THRESHOLDS = {
    "iou": IOU_THRESHOLDS,
    "iobb": IOBB_THRESHOLDS,
    "false_positives": IOBB_THRESHOLDS,
}
"""Of the measures that have some."""

MINUS = "attended_minus_"


class Score(NamedTuple):
    """One number: the mean of a measure of `Scores` at a threshold, with its interval."""

    threshold: float | None
    value: float
    interval: Interval | None


def scores_of(scores: Scores, measure: str) -> list[Score]:
    """List a measure, such as "iou", at its thresholds if it has some."""
    thresholds = THRESHOLDS.get(measure, (None,))
    columns = (np.atleast_1d(part).tolist() for part in getattr(scores, measure))
    return [
        Score(threshold, value, None if np.isnan(low) else Interval(low, high))
        for threshold, value, low, high in zip(thresholds, *columns, strict=True)
    ]


def published(measure: str, threshold: float | None, finding: str, cohort: Cohort) -> float | None:
    """Return Wang et al.'s number for radiographs; None if they have none.

    Their false positives are left out: they count per box of all findings, not per image.
    """
    if measure != "iobb" or cohort.synthetic:
        return None
    return load()["localisation"]["iobb"][f"{threshold:g}"]["accuracy"].get(finding)


def localisation_csv(localisation: Localisation, cohort: Cohort) -> str:
    """Write every score at every tau on a line of its own, with full precision.

    Differences, at the run's tau, are lines whose `found_by` starts with `attended_minus_`.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [
            *("tau", "found_by", "finding", "boxes", "images", "patients"),
            *("measure", "threshold", "value", "low", "high", "wang_2017"),
        ]
    )
    for tau, way, finding, scores in _rows(localisation):
        count = localisation.counts[finding]
        for measure in Scores._fields:
            for threshold, value, interval in scores_of(scores, measure):
                minus = way.startswith(MINUS)
                theirs = None if minus else published(measure, threshold, finding, cohort)
                numbers = (threshold, value, *(interval or (None, None)), theirs)
                counts = (count.boxes, count.images, count.patients)
                writer.writerow([tau, way, finding, *counts, measure, *numbers])
    return text.getvalue()


def _rows(localisation: Localisation) -> Iterator[tuple[float, str, str, Scores]]:
    for tau, of_tau in localisation.scores.items():
        for way, of_way in of_tau.items():
            for finding, scores in of_way.items():
                yield tau, way, finding, scores
    for way, of_way in localisation.differences.items():
        for finding, scores in of_way.items():
            yield localisation.tau, MINUS + way, finding, scores


def localisation_json(localisation: Localisation, cohort: Cohort) -> dict[str, Any]:
    """Return the content of `localisation.json`; lists follow the thresholds, null is unknown."""
    scores: dict[str, Any] = {}
    for tau, way, finding, of_finding in _rows(localisation):
        scores.setdefault(str(tau), {}).setdefault(way, {})[finding] = {
            measure: {name: _plain(part) for name, part in estimates._asdict().items()}
            for measure, estimates in of_finding._asdict().items()
        }
    return {
        "split": cohort.split,
        "protocol": cohort.protocol,
        "synthetic": cohort.synthetic,
        "tau": localisation.tau,
        "statistic": localisation.statistic,
        **vars(localisation.total),
        "findings": {finding: vars(count) for finding, count in localisation.counts.items()},
        "thresholds": {measure: list(values) for measure, values in THRESHOLDS.items()},
        "scores": scores,
        "published": None if cohort.synthetic else _published(),
    }


def _published() -> dict[str, Any]:
    """Return Wang et al.'s shares of boxes that are found."""
    theirs = load()["localisation"]
    shares = {t: {"accuracy": one["accuracy"]} for t, one in theirs["iobb"].items()}
    return {**theirs, "iobb": shares}


def _plain(values: np.ndarray) -> list[float | None] | float | None:
    if np.ndim(values):
        return [None if np.isnan(value) else float(value) for value in values]
    return None if np.isnan(values) else float(values)
