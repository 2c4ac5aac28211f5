"""The files of localisation: `localisation.json`, `.csv` and `.md`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from agcnn_jax.data.text import csv_text
from agcnn_jax.evaluation.files.table import ends, json_text
from agcnn_jax.evaluation.localisation.tables import (
    THRESHOLDS,
    localisation_markdown,
    published,
    scores_of,
)
from agcnn_jax.evaluation.scoring.cohort import Cohort
from agcnn_jax.evaluation.scoring.evaluation import Evaluation
from agcnn_jax.evaluation.scoring.localisation import Localisation
from agcnn_jax.evaluation.scoring.references import load_published
from agcnn_jax.metrics.localisation import Scores

MINUS = "attended_minus_"


def files(evaluation: Evaluation) -> dict[str, bytes]:
    """Return the files' contents by name; none without annotated boxes."""
    where, cohort = evaluation.localisation, evaluation.cohort
    if where is None or not where.counts:
        return {}
    texts = {
        "localisation.json": json_text(localisation_json(where, cohort)),
        "localisation.csv": localisation_csv(where, cohort),
        "localisation.md": localisation_markdown(where, cohort),
    }
    return {name: text.encode() for name, text in texts.items()}


def localisation_csv(localisation: Localisation, cohort: Cohort) -> str:
    """Write every score at every tau on a line of its own, with full precision.

    Differences, at the run's tau, are lines whose `found_by` starts with `attended_minus_`.
    """
    header = ["tau", "found_by", "finding", "boxes", "images", "patients", "measure"]
    rows = []
    for tau, way, finding, scores in _rows(localisation):
        count = localisation.counts[finding]
        counts = (count.boxes, count.images, count.patients)
        for measure in Scores._fields:
            thresholds = THRESHOLDS.get(measure, (None,))
            for threshold, estimate in zip(thresholds, scores_of(scores, measure), strict=True):
                minus = way.startswith(MINUS)
                theirs = None if minus else published(measure, threshold, finding, cohort)
                numbers = (threshold, estimate.value, *ends(estimate.interval), theirs)
                rows.append((tau, way, finding, *counts, measure, *numbers))
    return csv_text([*header, "threshold", "value", "low", "high", "wang_2017"], rows)


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
    theirs = load_published()["localisation"]
    shares = {t: {"accuracy": one["accuracy"]} for t, one in theirs["iobb"].items()}
    return {**theirs, "iobb": shares}


def _plain(values: np.ndarray) -> list[float | None] | float | None:
    if np.ndim(values):
        return [None if np.isnan(value) else float(value) for value in values]
    return None if np.isnan(values) else float(values)
