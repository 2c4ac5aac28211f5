"""The scores of attended regions and class-specific maps as tables."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from agcnn_jax.evaluation.files.table import DASH, Table, as_markdown, estimate_text, number
from agcnn_jax.evaluation.scoring.cohort import SYNTHETIC_NOTE, Cohort, headline, leakage
from agcnn_jax.evaluation.scoring.localisation import (
    BEST_CONTROL,
    CENTRED,
    CONTROLS,
    MEAN_BOX,
    PRIOR,
    WAYS,
    Localisation,
)
from agcnn_jax.evaluation.scoring.map_boxes import ATTENDED, MAPS
from agcnn_jax.evaluation.scoring.references import load_published
from agcnn_jax.metrics.interval import Estimate, Interval
from agcnn_jax.metrics.localisation import IOBB_THRESHOLDS, IOU_THRESHOLDS, Scores

THRESHOLDS = {
    "iou": IOU_THRESHOLDS,
    "iobb": IOBB_THRESHOLDS,
    "false_positives": IOBB_THRESHOLDS,
}
"""The thresholds of the measures that have any."""

NAMES = {
    ATTENDED: "Attended region",
    "grad_cam": "Grad-CAM",
    "grad_cam_plus_plus": "Grad-CAM++",
    "random_map": "Random map",
    CENTRED: "Centred square",
    MEAN_BOX: "Mean box of others",
    PRIOR: "Location prior",
    BEST_CONTROL: "Best control",
}
"""What tables call each way of finding boxes."""

WANG = "Wang et al. 2017"
_SHOWN = (
    ("IoU > 0.1", "iou", 0),
    ("IoU > 0.5", "iou", 4),
    ("IoBB > 0.5", "iobb", 2),
    ("centre", "centre", 0),
)
"""Header, measure and index of the threshold of the columns that stand for all."""


def scores_of(scores: Scores, measure: str) -> list[Estimate]:
    """List a measure of `Scores`, such as "iou": at each of its `THRESHOLDS` if it has some."""
    columns = (np.atleast_1d(part).tolist() for part in getattr(scores, measure))
    return [
        Estimate(value, None if np.isnan(low) else Interval(low, high))
        for value, low, high in zip(*columns, strict=True)
    ]


def published(measure: str, threshold: float | None, finding: str, cohort: Cohort) -> float | None:
    """Return Wang et al.'s number for radiographs; None if they have none.

    Their false positives are left out: they count per box of all findings, not per image.
    """
    if measure != "iobb" or cohort.synthetic:
        return None
    return load_published()["localisation"]["iobb"][f"{threshold:g}"]["accuracy"].get(finding)


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
        ("Area of the found boxes, as a share of the input", _by_way(localisation, "area")),
        (
            "Attended region minus the class-specific maps and the best control, paired by patient",
            _differences(localisation),
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
        "region's area; the mean annotated box of the finding over all other patients; and the "
        "location prior, the map of how many of these patients' boxes cover each pixel, cut off at "
        "tau like the heat map. Their points are the maxima of both maps and the boxes' centres. "
        "The best control is the one that does best on these images, for each measure on its own, "
        "which favours it; intervals do not allow for the choice.",
        "An annotated box is found if any box of the image meets it. What lies outside of the "
        "model's input, a centre crop, counts as missed. A class-specific map where nothing speaks "
        "for the finding is empty, and finds nothing.",
        "A larger region holds more centres, so compare areas too. The centred square's is the "
        "attended region's.",
        "Intervals: 95 %, over patients; Wilson's for shares, t for means and differences.",
        leakage(cohort) or "",
    ]
    if not cohort.synthetic:
        theirs = load_published()["localisation"]
        lines.append(
            f"{theirs['source']}; {theirs['boxes']} boxes on {theirs['images']} images, so images "
            "and thresholds of the maps differ from these. Their false positives are not shown: "
            "all are multiples of 1/984, as if divided by the boxes of all findings, but these "
            "are divided by the images of each finding."
        )
    return tuple(line for line in lines if line)


def _by_way(localisation: Localisation, measure: str) -> Table:
    """One row a finding, one column a way."""
    of_tau = localisation.scores[localisation.tau]
    rows = [
        [finding, f"{count.boxes:,}", f"{count.images:,}"]
        + [
            estimate_text(scores_of(of_tau[way][finding], measure)[0])
            if finding in of_tau[way]
            else DASH
            for way in WAYS
        ]
        for finding, count in localisation.counts.items()
    ]
    # Over the same findings for all ways.
    shared = [name for name in localisation.counts if all(name in of_tau[way] for way in WAYS)]
    means = [number(_mean(of_tau[way], shared, measure)) for way in WAYS]
    rows.append([f"Mean ({len(shared)} of {len(rows)})", "", "", *means])
    groups = (("", ("Finding", "Boxes", "Images", *(NAMES[way] for way in WAYS))),)
    return Table(groups, tuple(map(tuple, rows)), summary_rows=1)


def _by_threshold(localisation: Localisation, cohort: Cohort, measure: str) -> Table:
    """One row a finding and way, one column a threshold."""
    of_tau = localisation.scores[localisation.tau]
    # The controls that are boxes always give one.
    ways = MAPS if measure == "false_positives" else WAYS
    rows = []
    for finding in localisation.counts:
        for way in ways:
            if finding in of_tau[way]:
                cells = map(estimate_text, scores_of(of_tau[way][finding], measure))
                rows.append((finding, NAMES[way], *cells))
        theirs = [published(measure, t, finding, cohort) for t in THRESHOLDS[measure]]
        if theirs != [None] * len(theirs):
            rows.append((finding, WANG, *map(number, theirs)))
    header = ("Finding", "Found by", *(f"T = {t:g}" for t in THRESHOLDS[measure]))
    return Table((("", header),), tuple(rows))


def _differences(localisation: Localisation) -> Table:
    """One row a finding and other way."""
    columns = (*_SHOWN, ("pointing", "pointing", 0))
    rows = [
        (
            finding,
            NAMES[way],
            *(
                estimate_text(scores_of(of_way[finding], measure)[index], sign="+")
                for _, measure, index in columns
            ),
        )
        for finding in localisation.counts
        for way, of_way in localisation.differences.items()
        if way not in CONTROLS and finding in of_way
    ]
    header = ("Finding", "Minus", *(name for name, _, _ in columns))
    return Table((("", header),), tuple(rows))


def _by_tau(localisation: Localisation) -> Table:
    """One row a tau; the attended region beside the square of its area."""
    findings = localisation.counts
    rows = [
        (
            f"{tau:g}",
            number(_mean(of_tau[ATTENDED], findings, "area")),
            *(
                number(_mean(of_tau[way], findings, measure, index))
                for way in (ATTENDED, CENTRED)
                for _, measure, index in _SHOWN
            ),
        )
        for tau, of_tau in localisation.scores.items()
    ]
    names = tuple(name for name, _, _ in _SHOWN)
    groups = (("", ("tau", "Area")), *((f"{NAMES[way]}:", names) for way in (ATTENDED, CENTRED)))
    return Table(groups, tuple(rows))


def _mean(
    of_way: dict[str, Scores], findings: Collection[str], measure: str, index: int = 0
) -> float | None:
    values = [scores_of(of_way[finding], measure)[index].value for finding in findings]
    return float(np.mean(np.array(values, float))) if values else None


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
