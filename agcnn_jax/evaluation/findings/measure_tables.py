"""An evaluation's measures as tables for a reader: one for each branch and topic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from agcnn_jax.evaluation.files.table import (
    DASH,
    Table,
    as_markdown,
    estimate_text,
    interval_text,
    number,
    probability_text,
    share_text,
)
from agcnn_jax.evaluation.findings.subgroup_tables import markdown_parts as subgroup_parts
from agcnn_jax.evaluation.scoring.cohort import MISSING_NOTE, SYNTHETIC_NOTE, Cohort, headline
from agcnn_jax.evaluation.scoring.measures import Measures, thresholds_note
from agcnn_jax.metrics.auc_table import FEW_PATIENTS, BranchAUC
from agcnn_jax.metrics.interval import NO_ESTIMATE

RULE_NAMES = {
    "youden": "Youden's index",
    "specificity_0.9": "specificity 0.9",
    "sensitivity_0.9": "sensitivity 0.9",
}
COUNTS = ("true_positives", "false_positives", "false_negatives", "true_negatives")
SHARES = (
    "sensitivity",
    "specificity",
    "ppv",
    "npv",
    "positive_likelihood_ratio",
    "negative_likelihood_ratio",
)
METRICS_NOTES = (
    f"{DASH} fewer than {FEW_PATIENTS} patients are positive, or as few negative.",
    "Average precision: chance has the prevalence. Brier: mean squared error of the probabilities. "
    "Slope: 1 is right, below 1 the probabilities are too extreme. Intercept, with the slope held "
    "at 1: above 0 the probabilities are too low on the whole. ECE: expected calibration error "
    "over ten bins of equal numbers of images. Net benefit at a threshold probability that equals "
    "the prevalence, where treating everybody and nobody both have 0. Probabilities are the "
    "model's own, not recalibrated.",
)
INTERVALS_NOTE = (
    "Intervals: 95 %, from each patient's influence, each for its row alone. ECE is too high where "
    "the probabilities are right, which its interval does not show. metrics.json has the "
    "intervals of the decision and the reliability curves."
)
POINTS_NOTE = (
    "Thresholds are probabilities. TP, FP, FN, TN: numbers of images. LR+ and LR-: likelihood "
    "ratios of a positive and of a negative call. Intervals: 95 %, over patients (Wilson's for "
    "clustered observations, and of the logarithm for ratios), for given thresholds. PPV and NPV "
    "hold for the prevalence of the scored images."
)


class Shown(NamedTuple):
    """How tables show a measure: its header, decimals of the value and of the interval, a sign."""

    header: str
    digits: int = 3
    interval_digits: int = 3
    sign: str = ""


SHOWN = {
    "average_precision": Shown("average precision"),
    "brier": Shown("Brier", interval_digits=4),
    "slope": Shown("slope", 2, 2),
    "intercept": Shown("intercept", 2, 2, "+"),
    "expected_calibration_error": Shown("ECE", interval_digits=4),
    "net_benefit_at_prevalence": Shown("net benefit", 4, 4, "+"),
}
"""The columns of `finding_metrics.MEASURES`."""


def metrics_table(branch: str, measures: Measures, scores: BranchAUC, cohort: Cohort) -> Table:
    """Build the table of one branch's measures, a row for each label."""
    rows = []
    for label, metrics in measures.findings[branch].items():
        cells = [label, *(f"{count:,}" for count in cohort.counts(label))]
        cells.append(share_text(cohort.prevalence(label)))
        cells.append(number(scores.auc[label]))
        if metrics is None:
            rows.append((*cells, *[DASH] * (len(SHOWN) + 2)))
            continue
        cells += [
            number(metrics.numbers[name].value, shown.digits, shown.sign)
            for name, shown in SHOWN.items()
        ]
        rows.append((*cells, _quartiles(metrics.positives), _quartiles(metrics.negatives)))
    headers = (shown.header for shown in SHOWN.values())
    counts = (name.capitalize() for name in cohort.count_names)
    groups = (
        ("", ("Finding", *counts, "Prevalence", "AUC", *headers)),
        ("median [quartiles] of", ("positives", "negatives")),
    )
    return Table(groups, tuple(rows))


def intervals_table(branch: str, measures: Measures) -> Table:
    """Build the table of the intervals of one branch's measures, a row for each label."""
    rows = []
    for label, metrics in measures.findings[branch].items():
        numbers = metrics.numbers if metrics else dict.fromkeys(SHOWN, NO_ESTIMATE)
        cells = [interval_text(numbers[n].interval, SHOWN[n].interval_digits) for n in SHOWN]
        rows.append((label, *cells))
    header = ("Finding", *(shown.header for shown in SHOWN.values()))
    return Table((("", header),), tuple(rows))


def points_table(branch: str, rule: str, measures: Measures) -> Table:
    """Build the table of one branch's operating points by one rule, a row for each label."""
    rows = []
    calibration = measures.calibration
    assert calibration is not None
    for label, of_rule in measures.operating_points[branch].items():
        point = of_rule.get(rule)
        if point is None:
            rows.append((label, *[DASH] * 11))
            continue
        counts = (getattr(point, name) for name in COUNTS)
        shares = (getattr(point, name) for name in SHARES)
        threshold = probability_text(calibration.probability(point.threshold))
        texts = (estimate_text(share, 2) for share in shares)
        rows.append((label, threshold, *(f"{n:,}" for n in counts), *texts))
    groups = (
        ("", ("Finding", "threshold (probability)", "TP", "FP", "FN", "TN")),
        ("", ("sensitivity", "specificity", "PPV", "NPV", "LR+", "LR-")),
    )
    return Table(groups, tuple(rows))


def metrics_markdown(measures: Measures, results: Mapping[str, BranchAUC], cohort: Cohort) -> str:
    """Format all tables as Markdown, under headings."""
    parts = ["# Metrics"]
    if cohort.synthetic:
        parts.append(SYNTHETIC_NOTE)
    parts.append(headline(cohort))
    for branch, scores in results.items():
        parts.append(f"## {branch}: each finding")
        parts.append(_text(metrics_table(branch, measures, scores, cohort)))
        parts.append(f"## {branch}: intervals of the measures")
        parts.append(_text(intervals_table(branch, measures)))
    parts += (*([MISSING_NOTE] if cohort.missing else []), *METRICS_NOTES, INTERVALS_NOTE)
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
    return as_markdown(table).strip()


def _quartiles(quantiles: tuple[float, ...]) -> str:
    _, low, middle, high, _ = quantiles
    return f"{middle:.3f} [{low:.3f}, {high:.3f}]"
