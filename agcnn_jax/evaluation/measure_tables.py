"""An evaluation's measures as tables for a reader: one for each branch and topic."""

from __future__ import annotations

from collections.abc import Mapping

from agcnn_jax.evaluation import table_text
from agcnn_jax.evaluation.cohort import SYNTHETIC_NOTE, Cohort, headline
from agcnn_jax.evaluation.measures import Measures
from agcnn_jax.evaluation.subgroup_tables import markdown_parts as subgroup_parts
from agcnn_jax.evaluation.tables import DASH, Table, interval_text, number, probability_text
from agcnn_jax.metrics.auc_table import FEW_PATIENTS, BranchAUC
from agcnn_jax.metrics.operating_points import Share

RULE_NAMES = {
    "youden": "Youden's index",
    "specificity_0.9": "specificity 0.9",
    "sensitivity_0.9": "sensitivity 0.9",
}
METRICS_NOTES = (
    f"{DASH} fewer than {FEW_PATIENTS} patients are positive, or as few negative.",
    "Average precision: chance has the prevalence. Brier: mean squared error of the probabilities. "
    "Slope: 1 is right, below 1 the probabilities are too extreme. Intercept, with the slope held "
    "at 1: above 0 the probabilities are too low on the whole. ECE: expected calibration error "
    "over ten bins of equal numbers of images. Net benefit at a threshold probability that equals "
    "the prevalence, where treating everybody and nobody both have 0. Probabilities are the "
    "model's own, not recalibrated.",
)
POINTS_NOTE = (
    "Intervals: 95 %, over patients (Wilson's, for clustered observations), for given thresholds. "
    "PPV holds for the prevalence of the scored images."
)


def metrics_table(branch: str, measures: Measures, scores: BranchAUC, cohort: Cohort) -> Table:
    """Build the table of one branch's measures, a row for each label."""
    rows = []
    for label, found in measures.findings[branch].items():
        cells = [label, f"{cohort.positives[label]:,}"]
        cells.append(f"{100 * cohort.positives[label] / cohort.images:.1f} %")
        cells.append(number(scores.auc[label]))
        if found is None:
            rows.append((*cells, *[DASH] * 8))
            continue
        rows.append(
            (
                *cells,
                number(found.average_precision),
                number(found.brier),
                number(found.slope, 2),
                number(found.intercept, 2, "+"),
                number(found.expected_calibration_error),
                number(found.net_benefit_at_prevalence, 4, "+"),
                _quartiles(found.positives),
                _quartiles(found.negatives),
            )
        )
    measured = ("AUC", "average precision", "Brier", "slope", "intercept", "ECE", "net benefit")
    return Table(
        above=(),
        groups=(
            ("", ("Finding", "Positives", "Prevalence", *measured)),
            ("median [quartiles] of", ("positives", "negatives")),
        ),
        rows=tuple(rows),
        summary_rows=0,
        below=(),
    )


def points_table(branch: str, rule: str, measures: Measures) -> Table:
    """Build the table of one branch's operating points by one rule, a row for each label."""
    rows = []
    chosen = measures.calibration
    assert chosen is not None
    for label, of_rule in measures.operating_points[branch].items():
        point = of_rule.get(rule)
        if point is None:
            rows.append((label, *[DASH] * 6))
            continue
        counts = (point.true_positives, point.false_positives)
        shares = (point.sensitivity, point.specificity, point.ppv)
        called = (f"{sum(counts):,}", f"{counts[0]:,}")
        threshold = chosen.probability(point.threshold)
        rows.append((label, probability_text(threshold), *called, *map(_share, shares)))
    return Table(
        above=(),
        groups=(
            ("", ("Finding", "threshold (probability)", "called positive", "of them positive")),
            ("", ("sensitivity", "specificity", "PPV")),
        ),
        rows=tuple(rows),
        summary_rows=0,
        below=(),
    )


def thresholds_note(measures: Measures) -> str:
    """Say which images the thresholds were chosen on, or why there are none."""
    chosen = measures.calibration
    if chosen is None:
        return f"No operating points and no Platt's numbers: {measures.note}."
    images = f"{chosen.images:,} validation images of {chosen.patients:,} patients"
    caution = f"; {measures.note}" if measures.note else ""
    return f"Thresholds and Platt's numbers come from {images}{caution}."


def as_markdown(measures: Measures, results: Mapping[str, BranchAUC], cohort: Cohort) -> str:
    """Format all tables as Markdown, under headings."""
    parts = ["# Metrics"]
    if cohort.synthetic:
        parts.append(SYNTHETIC_NOTE)
    parts.append(headline(cohort))
    for branch, scores in results.items():
        parts.append(f"## {branch}: each finding")
        parts.append(_text(metrics_table(branch, measures, scores, cohort)))
    parts += METRICS_NOTES
    for branch in measures.operating_points:
        for rule, name in RULE_NAMES.items():
            parts.append(f"## {branch}: threshold by {name}")
            parts.append(_text(points_table(branch, rule, measures)))
    if measures.operating_points:
        parts.append(POINTS_NOTE)
    parts.append(thresholds_note(measures))
    parts += subgroup_parts(measures)
    return "\n\n".join(parts) + "\n"


def _text(table: Table) -> str:
    return table_text.as_markdown(table).strip()


def _share(share: Share) -> str:
    if share.value is None:
        return DASH
    return f"{number(share.value, 2)} {interval_text(share.interval, 2)}"


def _quartiles(quantiles: tuple[float, ...]) -> str:
    _, low, middle, high, _ = quantiles
    return f"{middle:.3f} [{low:.3f}, {high:.3f}]"
