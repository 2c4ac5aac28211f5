"""The scores of attended regions and class-specific maps as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import numpy as np

from agcnn_jax.evaluation.cohort import SYNTHETIC_NOTE, Cohort, headline, leakage
from agcnn_jax.evaluation.localisation import CENTRED, WAYS, Localisation
from agcnn_jax.evaluation.map_boxes import ATTENDED, MAPS
from agcnn_jax.evaluation.references import load
from agcnn_jax.evaluation.table_text import as_markdown
from agcnn_jax.evaluation.tables import DASH, Table, interval_text, number
from agcnn_jax.metrics.bootstrap import Interval
from agcnn_jax.metrics.localisation import IOBB_THRESHOLDS, IOU_THRESHOLDS, Scores

NAMES = {
    ATTENDED: "Attended region",
    "grad_cam": "Grad-CAM",
    "grad_cam_plus_plus": "Grad-CAM++",
    "random_map": "Random map",
    CENTRED: "Centred square",
    "mean_box": "Mean box of others",
}
"""What tables call each way of finding boxes."""

WANG = "Wang et al. 2017"
_THRESHOLDS = {
    "iou": IOU_THRESHOLDS,
    "iobb": IOBB_THRESHOLDS,
    "false_positives": IOBB_THRESHOLDS,
}


class Score(NamedTuple):
    """One number: the mean of a measure of `Scores` at a threshold, with its interval."""

    threshold: float | None
    value: float
    interval: Interval | None


def scores_of(scores: Scores, measure: str) -> list[Score]:
    """List a measure, such as "iou", at its thresholds; "pointing" and "centre" have none."""
    thresholds = _THRESHOLDS.get(measure, (None,))
    columns = (np.atleast_1d(part).tolist() for part in getattr(scores, measure))
    return [
        Score(threshold, value, None if np.isnan(low) else Interval(low, high))
        for threshold, value, low, high in zip(thresholds, *columns, strict=True)
    ]


def published(measure: str, threshold: float | None, finding: str, cohort: Cohort) -> float | None:
    """Return Wang et al.'s number for radiographs; None if they have none."""
    name = {"iobb": "accuracy", "false_positives": "false_positives_per_image"}.get(measure)
    if name is None or cohort.synthetic:
        return None
    return load()["localisation"]["iobb"][f"{threshold:g}"][name].get(finding)


def localisation_tables(localisation: Localisation, cohort: Cohort) -> list[tuple[str, Table]]:
    """Build the tables of the run's tau and the means at all taus, each with its title."""
    return [
        (
            "Pointing game: share of images where the map's maximum lies in an annotated box",
            _by_way(localisation, "pointing"),
        ),
        (
            "Share of annotated boxes whose centre lies in the region",
            _by_way(localisation, "centre"),
        ),
        (
            "Share of annotated boxes found with an intersection over union above T",
            _by_threshold(localisation, cohort, "iou"),
        ),
        (
            "Share of annotated boxes found with an intersection over the found box above T",
            _by_threshold(localisation, cohort, "iobb"),
        ),
        (
            "False positives: boxes an image with an intersection over the found box of T or less",
            _by_threshold(localisation, cohort, "false_positives"),
        ),
        ("Means over the findings at other thresholds tau", _by_tau(localisation)),
    ]


def notes(localisation: Localisation, cohort: Cohort) -> tuple[str, ...]:
    """Explain the tables."""
    lines = [
        "The attended region is the box around the largest region of the heat map above tau, which "
        "does not depend on the finding. Grad-CAM and Grad-CAM++ of the global branch do, and give "
        "a box for each region.",
        "Controls: the region of a random map; a square in the image's centre with the attended "
        "region's area; the mean annotated box of the finding over all other patients. Their "
        "points are the random map's maximum and the boxes' centres.",
        "An annotated box is found if any box of the image meets it. What lies outside of the "
        "model's input, a centre crop, counts as missed. A class-specific map where nothing speaks "
        "for the finding is empty, and finds nothing. Intervals: 95 %, over patients.",
        leakage(cohort) or "",
    ]
    if not cohort.synthetic:
        theirs = load()["localisation"]
        lines.append(
            f"{theirs['source']}; {theirs['boxes']} boxes on {theirs['images']} images, so images "
            "and thresholds of the maps differ from these."
        )
    return tuple(line for line in lines if line)


def _cell(score: Score) -> str:
    return f"{number(score.value)} {interval_text(score.interval)}"


def _by_way(localisation: Localisation, measure: str) -> Table:
    """One row a finding, one column a way."""
    of_tau = localisation.scores[localisation.tau]
    rows = [
        [finding, f"{count.boxes:,}", f"{count.images:,}"]
        + [
            _cell(scores_of(of_tau[way][finding], measure)[0]) if finding in of_tau[way] else DASH
            for way in WAYS
        ]
        for finding, count in localisation.counts.items()
    ]
    # Over the same findings for all ways.
    shared = [name for name in localisation.counts if all(name in of_tau[way] for way in WAYS)]
    means = [number(_mean(of_tau[way], shared, measure)) for way in WAYS]
    rows.append([f"Mean ({len(shared)} of {len(rows)})", "", "", *means])
    groups = (("", ("Finding", "Boxes", "Images", *(NAMES[way] for way in WAYS))),)
    return Table((), groups, tuple(map(tuple, rows)), summary_rows=1, below=())


def _by_threshold(localisation: Localisation, cohort: Cohort, measure: str) -> Table:
    """One row a finding and way, one column a threshold."""
    of_tau = localisation.scores[localisation.tau]
    # The controls that are boxes always give one.
    ways = MAPS if measure == "false_positives" else WAYS
    rows = []
    for finding in localisation.counts:
        for way in ways:
            if finding in of_tau[way]:
                cells = map(_cell, scores_of(of_tau[way][finding], measure))
                rows.append((finding, NAMES[way], *cells))
        theirs = [published(measure, t, finding, cohort) for t in _THRESHOLDS[measure]]
        if theirs != [None] * len(theirs):
            rows.append((finding, WANG, *map(number, theirs)))
    header = ("Finding", "Found by", *(f"T = {t:g}" for t in _THRESHOLDS[measure]))
    return Table((), (("", header),), tuple(rows), summary_rows=0, below=())


def _by_tau(localisation: Localisation) -> Table:
    """One row a tau; the attended region beside the square of its area."""
    shown = (("IoU > 0.1", "iou", 0), ("IoU > 0.5", "iou", 4), ("IoBB > 0.5", "iobb", 2))
    columns = (*shown, ("centre", "centre", 0))
    rows = [
        (
            f"{tau:g}",
            *(
                number(_mean(of_tau[way], localisation.counts, measure, index))
                for way in (ATTENDED, CENTRED)
                for _, measure, index in columns
            ),
        )
        for tau, of_tau in localisation.scores.items()
    ]
    names = tuple(name for name, _, _ in columns)
    groups = (("", ("tau",)), *((f"{NAMES[way]}:", names) for way in (ATTENDED, CENTRED)))
    return Table((), groups, tuple(rows), summary_rows=0, below=())


def _mean(
    of_way: dict[str, Scores], findings: Collection[str], measure: str, index: int = 0
) -> float | None:
    values = [scores_of(of_way[finding], measure)[index].value for finding in findings]
    return float(np.mean(values)) if values else None


def localisation_markdown(localisation: Localisation, cohort: Cohort) -> str:
    """Write the tables with their titles and notes."""
    total = localisation.total
    synthetic = [SYNTHETIC_NOTE] if cohort.synthetic else []
    about = (
        f"Where the global branch looked, on {total.boxes:,} annotated boxes in {total.images:,} "
        f"images of {total.patients:,} patients, with tau {localisation.tau:g} and the statistic "
        f"{localisation.statistic} of the heat map."
    )
    parts = ["# Localisation", *synthetic, headline(cohort), about]
    for title, table in localisation_tables(localisation, cohort):
        parts += [f"## {title}", as_markdown(table).strip()]
    return "\n\n".join([*parts, "## Notes", *notes(localisation, cohort), *synthetic]) + "\n"


def localisation_csv(localisation: Localisation, cohort: Cohort) -> str:
    """Write every score at every tau on a line of its own, with full precision."""
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
                theirs = published(measure, threshold, finding, cohort)
                numbers = (threshold, value, *(interval or (None, None)), theirs)
                counts = (count.boxes, count.images, count.patients)
                writer.writerow([tau, way, finding, *counts, measure, *numbers])
    return text.getvalue()


def _rows(localisation: Localisation) -> Iterator[tuple[float, str, str, Scores]]:
    for tau, of_tau in localisation.scores.items():
        for way, of_way in of_tau.items():
            for finding, scores in of_way.items():
                yield tau, way, finding, scores


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
        "thresholds": {measure: list(values) for measure, values in _THRESHOLDS.items()},
        "scores": scores,
        "published": None if cohort.synthetic else load()["localisation"],
    }


def _plain(values: np.ndarray) -> list[float | None] | float | None:
    if np.ndim(values):
        return [None if np.isnan(value) else float(value) for value in values]
    return None if np.isnan(values) else float(values)
