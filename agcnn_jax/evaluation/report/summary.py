"""Sentences of a report: a summary, the limits of what it shows, and versions."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib import metadata

import numpy as np

import agcnn_jax
from agcnn_jax.config.saved import LIBRARIES
from agcnn_jax.data.patients import CHESTXRAY14
from agcnn_jax.evaluation.auc.aucs import differences, paper
from agcnn_jax.evaluation.files.table import interval_text, number, plain_name
from agcnn_jax.evaluation.scoring.cohort import MISSING_NOTE, Cohort, leakage
from agcnn_jax.evaluation.scoring.measures import Measures
from agcnn_jax.metrics.auc_table import FEW_PATIENTS, BranchAUC
from agcnn_jax.metrics.finding_metrics import FindingMetrics
from agcnn_jax.models.agcnn import BRANCHES

FILE = "predictions"
"""What a single file of predictions is called in place of a branch."""
# How far from perfect calibration "about right" reaches. An intercept of 0.2 changes odds by 22 %.
_SLOPE, _SHIFT, _ECE = 0.1, 0.2, 0.05


def summary(results: Mapping[str, BranchAUC], measures: Measures, cohort: Cohort) -> list[str]:
    """State in a few sentences what the last branch, or each file, reaches, and what to know."""
    images = f"{cohort.images:,} images of {cohort.patients:,} patients"
    shown = list(results) if cohort.split is None else list(results)[-1:]
    lines = []
    for branch in shown:
        scores = results[branch]
        if scores.mean.value is None:
            return [f"There is no AUC: no finding is both present and absent in these {images}."]
        interval = f"{interval_text(scores.mean.interval)} " if scores.mean.interval else ""
        text = (
            f"{subject(branch)} {'reach' if branch == FILE else 'reaches'} a mean AUC of "
            f"{number(scores.mean.value)} {interval}over {len(scores.mean.findings)} of "
            f"{len(scores.findings)} findings, on {images}."
        )
        row = paper([branch], cohort).rows.get(branch)
        theirs = row.mean(scores.mean.findings) if row else None
        if theirs is not None:
            text += f" The paper reports {number(theirs)} on its own random split."
        lines += [text, _best_and_worst(scores), _calibration_in_words(measures, branch)]
    for mean_name, difference, between in differences(results)[:1]:
        lines.append(
            f"Fusion minus global, {mean_name.lower()}: {number(difference, sign='+')} "
            f"{interval_text(between)}, paired by patient."
        )
    if cohort.missing:
        known = [cohort.known(finding) for finding in next(iter(results.values())).findings]
        lines.append(
            f"Labels are missing: each finding is measured on the images whose label for it is "
            f"known, {min(known):,} to {max(known):,} of these {cohort.images:,}."
        )
    lines.append(leakage(cohort) or "")
    return [line for line in lines if line]


def subject(branch: str) -> str:
    """Name a branch or a file at the beginning of a sentence."""
    if branch in BRANCHES:
        return f"The {branch} branch"
    return "The predictions" if branch == FILE else branch


def _best_and_worst(scores: BranchAUC) -> str:
    aucs = {f: value for f in scores.frequent_mean.findings if (value := scores.auc[f]) is not None}
    if len(aucs) < 2:
        return ""
    best, worst = (choose(aucs, key=lambda f: aucs[f]) for choose in (max, min))
    return (
        f"Of the findings that {FEW_PATIENTS} or more patients have, {plain_name(best)} has the "
        f"highest AUC ({number(aucs[best])}) and {plain_name(worst)} the lowest "
        f"({number(aucs[worst])})."
    )


def _calibration_in_words(measures: Measures, branch: str) -> str:
    """Give the medians of slope, intercept and ECE, and count the findings with all three right.

    A slope of 1 alone says little: probabilities that are all ten times too high may have it. A
    median alone says little, too: half of the findings may err in each direction.
    """
    metrics = [one for one in measures.findings[branch].values() if one is not None]
    if not metrics:
        return ""

    def median(name: str, digits: int, sign: str = "") -> str:
        values = [x for one in metrics if (x := one.numbers[name].value) is not None]
        return number(float(np.median(values)) if values else None, digits, sign)

    right = sum(_is_calibrated(one) for one in metrics)
    count = f"{len(metrics)} finding{'s' * (len(metrics) > 1)}"
    error = median("expected_calibration_error", 3)
    return (
        f"Calibration, medians over {count}: slope {median('slope', 2)} (1 is right), "
        f"intercept {median('intercept', 2, '+')} (0 is right), ECE {error}. "
        f"All three are about right for {right} of them (slope {1 - _SLOPE:g} to {1 + _SLOPE:g}, "
        f"intercept -{_SHIFT:g} to {_SHIFT:g}, ECE at most {_ECE:g})."
    )


def _is_calibrated(metrics: FindingMetrics) -> bool:
    slope, intercept, error = (
        metrics.numbers[name].value for name in ("slope", "intercept", "expected_calibration_error")
    )
    if slope is None or intercept is None or error is None:
        return False
    return abs(slope - 1) <= _SLOPE and abs(intercept) <= _SHIFT and error <= _ECE


def limits(cohort: Cohort, read: bool = False) -> list[str]:
    """Say what the numbers do not show; with `read`, radiologists labelled the images."""
    lines = [
        "Intervals say how much the numbers would vary with other patients of the same kind. They "
        "leave out other hospitals, and other trainings of the same network.",
    ]
    if cohort.synthetic:
        lines.append(
            "The images are drawn by a program, so nothing here says anything on patients."
        )
    else:
        lines += (
            [
                "Radiologists labelled the images, which were selected for it, each set in its own "
                "way. Numbers that name no set are of all sets together.",
                "All images come from one institution, and predictive values hold for the "
                "prevalence of this selection.",
            ]
            if read
            else [
                "How the images were selected and labelled is for whoever collected them to say; "
                "an AUC measures agreement with those labels, and predictive values hold for the "
                "prevalence of these images.",
            ]
            if cohort.collection != CHESTXRAY14
            else [
                "The labels were extracted from radiology reports by a program, not read from the "
                "images; an AUC measures agreement with those labels.",
                "All images come from one institution, and predictive values hold for its "
                "prevalence.",
            ]
        )
    if cohort.missing:
        lines.append(MISSING_NOTE)
    rare = [plain_name(f) for f, n in cohort.positive_patients.items() if n < FEW_PATIENTS]
    if rare:
        few = f"Fewer than {FEW_PATIENTS} positive patients: {', '.join(rare)}."
        lines.append(f"{few} Their numbers say little.")
    if cohort.overlap is None or not cohort.overlap.complete:
        lines.append(
            "It is not known which images the model was trained on. If scored images are among "
            "them, the numbers are too good."
        )
    lines.append(
        "This is a research result. It does not show that the model is fit for clinical use."
    )
    return lines


def versions() -> dict[str, str]:
    """Return the versions of this package, of Python and of the libraries by their names."""
    libraries = {name: metadata.version(name) for name in LIBRARIES}
    return {
        "agcnn_jax": agcnn_jax.__version__,
        "Python": platform.python_version(),
        **libraries,
    }
