"""The curves of an evaluation: ROC, precision and recall, reliability, and decision curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import precision_recall_curve, roc_curve

from agcnn_jax.evaluation.auc.aucs import mean_name
from agcnn_jax.evaluation.figures.style import (
    LEGEND,
    TEXT_SIZE,
    TITLE_SIZE,
    heading,
    panel_grid,
    short_name,
    style,
    thinned,
)
from agcnn_jax.evaluation.files.table import number, plain_name
from agcnn_jax.evaluation.scoring.cohort import Cohort
from agcnn_jax.evaluation.scoring.measures import Measures
from agcnn_jax.evaluation.scoring.scored import ScoredImages
from agcnn_jax.metrics.auc_table import FEW_PATIENTS, BranchAUC
from agcnn_jax.metrics.calibration import THRESHOLDS
from agcnn_jax.metrics.finding_metrics import FindingMetrics
from agcnn_jax.metrics.known_labels import known_rows

NO_KNOWN = "no known label"
_REFERENCE: dict[str, Any] = {"color": "0.6", "linewidth": 1.0}
_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's, without yellow, which is hardly seen on white."""


def roc_figure(scored: ScoredImages, results: Mapping[str, BranchAUC], cohort: Cohort) -> Figure:
    """Draw the ROC curve of each branch, one panel per finding, as in the paper's Fig. 5."""
    first = next(iter(results.values()))

    def draw(axes: Axes, finding: str) -> str | None:
        axes.plot((0, 1), (0, 1), **_REFERENCE)
        if not cohort.known(finding):
            return NO_KNOWN
        if finding in first.missing:
            return f"no {'negative' if cohort.positives[finding] else 'positive'} image"
        for i, branch in enumerate(results):
            false, true, _ = roc_curve(*_known(scored, branch, finding))
            color, line = style(branch, i)
            label = f"{short_name(branch)} {number(results[branch].auc[finding])}"
            axes.plot(*thinned(false, true), line, color=color, linewidth=1.5, label=label)
        return None

    means = [
        f"{short_name(branch)} {number(scores.mean.value)}" for branch, scores in results.items()
    ]
    return panel_grid(
        first.findings,
        draw,
        titles=_with_positives(first, cohort),
        axis_labels=("False positive rate (1 − specificity)", "True positive rate (sensitivity)"),
        title=f"{heading('ROC curves', cohort)}; {_in_brackets(cohort)}",
        spare="\n".join([mean_name(first), *means]),
        square=True,
    )


def roc_overview(scored: ScoredImages, results: Mapping[str, BranchAUC], cohort: Cohort) -> Figure:
    """Draw the ROC curves of all findings, one panel per branch, as in the paper's Fig. 6."""
    side, above, below, beside = 2.9, 0.85, 0.65, 0.75  # inches
    columns = 2 if len(results) == 1 else 1
    names = 0.18 * math.ceil(len(next(iter(results.values())).findings) / columns)
    width = max((side + beside) * len(results) + 0.1, 4.6)
    height = above + side + below + names
    figure = Figure(figsize=(width, height))
    left = (width - len(results) * (side + beside)) / 2 + beside - 0.05
    for place, (branch, scores) in enumerate(results.items()):
        corner = (left + place * (side + beside), names + below)
        axes = figure.add_axes(
            (corner[0] / width, corner[1] / height, side / width, side / height),
        )
        axes.plot((0, 1), (0, 1), **_REFERENCE)
        for i, finding in enumerate(scores.mean.findings):
            false, true, _ = roc_curve(*_known(scored, branch, finding))
            # Seven colours in two line styles tell fourteen findings apart.
            color, line = _COLOURS[i % len(_COLOURS)], "-" if i < len(_COLOURS) else "--"
            label = f"{plain_name(finding)} {number(scores.auc[finding])}"
            axes.plot(*thinned(false, true), line, color=color, linewidth=1.2, label=label)
        axes.set_title(f"{branch}, mean {number(scores.mean.value)}", fontsize=TITLE_SIZE)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.set_xlabel("False positive rate (1 − specificity)", fontsize=TEXT_SIZE)
        if not place:
            axes.set_ylabel("True positive rate (sensitivity)", fontsize=TEXT_SIZE)
        axes.tick_params(labelsize=TEXT_SIZE)
        axes.spines[["top", "right"]].set_visible(False)
        if scores.mean.findings:
            low = -(below - 0.1) / side
            options = {**LEGEND, "loc": "upper center", "fontsize": 8, "ncols": columns}
            axes.legend(bbox_to_anchor=(0.5, low), borderaxespad=0, **options)
    figure.suptitle(heading("ROC curves of all findings", cohort), fontsize=12)
    return figure


def precision_recall_figure(
    scored: ScoredImages, results: Mapping[str, BranchAUC], measures: Measures, cohort: Cohort
) -> Figure:
    """Draw precision against recall, one panel per finding; a grey line shows the prevalence."""

    def draw(axes: Axes, finding: str, of_branch: dict[str, FindingMetrics]) -> None:
        axes.axhline(cohort.prevalence(finding) or 0.0, **_REFERENCE)
        for i, (branch, metrics) in enumerate(of_branch.items()):
            precision, recall, _ = precision_recall_curve(*_known(scored, branch, finding))
            color, line = style(branch, i)
            label = f"{short_name(branch)} {number(metrics.numbers['average_precision'].value)}"
            axes.plot(*thinned(recall, precision), line, color=color, linewidth=1.5, label=label)

    return _measured_panels(
        results,
        measures,
        cohort,
        draw,
        axis_labels=("Recall (sensitivity)", "Precision (positive predictive value)"),
        title=f"{heading('Precision and recall', cohort)}; average precision beside each name",
        square=True,
    )


def reliability_figure(
    results: Mapping[str, BranchAUC], measures: Measures, cohort: Cohort
) -> Figure:
    """Draw observed frequencies against predicted probabilities, one panel per finding."""

    def draw(axes: Axes, finding: str, of_branch: dict[str, FindingMetrics]) -> None:
        largest = 0.0
        for i, (branch, metrics) in enumerate(of_branch.items()):
            predicted, observed, _ = metrics.reliability
            largest = max(largest, predicted.max(), observed.max())
            color, line = style(branch, i)
            axes.plot(predicted, observed, line, color=color, marker="o", ms=3, label=branch)
        # Rare findings have small probabilities, so that each panel has a scale of its own.
        end = min(1.02, 1.08 * largest)
        axes.plot((0, end), (0, end), label="perfect calibration", **_REFERENCE)
        _few_ticks(axes)
        axes.set(xlim=(-0.02 * end, end), ylim=(-0.02 * end, end), aspect="equal")

    return _measured_panels(
        results,
        measures,
        cohort,
        draw,
        axis_labels=("Predicted probability", "Observed share"),
        title=f"{heading('Reliability', cohort)}; a point is a tenth of the images"
        f"{' with a known label' if cohort.missing else ''}",
        legend="below",
    )


def decision_figure(results: Mapping[str, BranchAUC], measures: Measures, cohort: Cohort) -> Figure:
    """Draw net benefit against the threshold probability, one panel per finding."""

    def draw(axes: Axes, finding: str, of_branch: dict[str, FindingMetrics]) -> None:
        prevalence = cohort.prevalence(finding) or 0.0
        # Beyond, hardly anybody would be treated for a finding this rare.
        shown = min(max(0.1, 4 * prevalence), 0.5) + 1e-9 >= THRESHOLDS
        thresholds = THRESHOLDS[shown]
        odds = thresholds / (1 - thresholds)
        everybody = prevalence - (1 - prevalence) * odds
        axes.plot(thresholds, everybody, label="calling all positive", **_REFERENCE)
        axes.axhline(0, label="calling none positive", linestyle=(0, (1, 1)), **_REFERENCE)
        for i, (branch, metrics) in enumerate(of_branch.items()):
            color, line = style(branch, i)
            curve = metrics.decision_curve[shown]
            axes.plot(thresholds, curve, line, color=color, linewidth=1.5, label=branch)
        axes.set(xlim=(0, None), ylim=(-0.25 * prevalence, 1.08 * prevalence))
        _few_ticks(axes)

    return _measured_panels(
        results,
        measures,
        cohort,
        draw,
        axis_labels=("Threshold probability", "Net benefit"),
        title=f"{heading('Decision curves', cohort)}; {_in_brackets(cohort)}",
        legend="below",
    )


def _measured_panels(
    results: Mapping[str, BranchAUC],
    measures: Measures,
    cohort: Cohort,
    draw: Callable[[Axes, str, dict[str, FindingMetrics]], None],
    **options: Any,
) -> Figure:
    """Draw a panel per finding from the measures of its branches, or say that there are none."""
    first = next(iter(results.values()))

    def panel(axes: Axes, finding: str) -> str | None:
        of_branch = _measured(measures, finding)
        if not of_branch:
            if not cohort.known(finding):
                return NO_KNOWN
            few = cohort.positive_patients[finding] < FEW_PATIENTS
            return f"fewer than {FEW_PATIENTS}\n{'positive' if few else 'negative'} patients"
        draw(axes, finding, of_branch)
        return None

    return panel_grid(first.findings, panel, titles=_with_positives(first, cohort), **options)


def _few_ticks(axes: Axes) -> None:
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(4))


def _known(scored: ScoredImages, branch: str, finding: str) -> tuple[np.ndarray, ...]:
    """Return the known labels of a finding, and the scores of their images."""
    column = list(scored.labels).index(finding)
    return known_rows(scored.label_matrix[:, column], scored.ranked[branch][:, column])


def _measured(measures: Measures, finding: str) -> dict[str, FindingMetrics]:
    """Return the measures of each branch; empty where too few patients have the finding."""
    of_branch = {branch: of_label[finding] for branch, of_label in measures.findings.items()}
    return {branch: metrics for branch, metrics in of_branch.items() if metrics is not None}


def _with_positives(scores: BranchAUC, cohort: Cohort) -> list[str]:
    of = {f: f" of {cohort.known(f):,}" if cohort.missing else "" for f in scores.findings}
    return [f"{plain_name(f)} ({cohort.positives[f]:,}{of[f]})" for f in scores.findings]


def _in_brackets(cohort: Cohort) -> str:
    return f"positives{' of known labels' if cohort.missing else ''} in brackets"
