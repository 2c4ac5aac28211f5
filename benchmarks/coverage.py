"""Coverage of the intervals of mean AUCs: how often they contain the true value.

    python benchmarks/coverage.py [--draws 1000] [--processes 1] [--out FILE]

Draws cohorts of patients with several images each, 14 findings and two branches with correlated
scores, from distributions whose AUCs are known. Computes intervals of one branch's mean AUC and of
the difference between the branches: those of the tables, and for comparison those of the normal
distribution without a correction for few patients. Prints the percentage of draws whose interval
contains the truth, the percentage whose truth lies below it, and the mean width.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from scipy.stats import norm

sys.path.append(str(Path(__file__).resolve().parents[1]))  # the package need not be installed

from cohorts import AUCS, Cohort, Coverage, Scenario, Simulate, cohorts, command, coverage_of
from reporting import table

from agcnn_jax.metrics.auc_table import auc_table, paired_difference
from agcnn_jax.metrics.interval import LEVEL

FINDINGS = tuple(f"finding {number}" for number in range(len(AUCS)))
METHODS = ("influence", "uncorrected")

SCENARIOS = {
    "none rare": Scenario(0),
    "none rare, missed": Scenario(0, missed=True),
    "1 of 14 with 3 patients": Scenario(1, few=(3, 3), many=(23, 60)),
    "5 of 14 rare": Scenario(5),
    "5 of 14 rare, missed": Scenario(5, missed=True),
    "5 of 14 rare, patients' images alike": Scenario(5, common=0.3, own=0.5),
    "5 of 14 rare, branches alike": Scenario(5, alike=0.95, gain=0.05),
    "7 of 14 rare, 60 patients": Scenario(7, many=(7, 20), patients=60),
    "all rare": Scenario(14),
    "all with 2 or 3 patients": Scenario(14, few=(2, 3), patients=120),
}


def coverage(scenario: Scenario, draws: int) -> dict[tuple[str, str], Coverage]:
    """Measure the coverage of the intervals of the mean and of the difference, for each method."""
    intervals: dict[tuple[str, str], list[tuple[float, float]]] = {}
    truths = {}
    for cohort in cohorts(scenario, draws):
        for key, (truths[key], interval) in _intervals(cohort).items():
            intervals.setdefault(key, []).append(interval)
    return {key: coverage_of(intervals[key], truth) for key, truth in truths.items()}


def _intervals(cohort: Cohort) -> dict[tuple[str, str], tuple[float, tuple[float, float]]]:
    """Compute `{(quantity, method): (truth, interval)}`."""
    results = auc_table(
        cohort.labels, cohort.scores, labels=FINDINGS, findings=FINDINGS, patient_ids=cohort.patient
    )
    first, second = results["first"].mean, results["second"].mean
    paired, truth = paired_difference(second, first), cohort.truth
    assert paired is not None
    assert second.value is not None
    gain = second.influence.minus(first.influence)
    quantities = {
        "mean": (second.value, second.interval, second.influence, truth["second"]),
        "difference": (*paired, gain, truth["second"] - truth["first"]),
    }
    intervals: dict[tuple[str, str], tuple[float, tuple[float, float]]] = {}
    for what, (point, interval, influence, true_value) in quantities.items():
        by_patient = influence.values.sum(axis=(0, 1)) / len(FINDINGS)
        reach = norm.ppf((1 + LEVEL) / 2) * float(np.sqrt((by_patient**2).sum()))
        assert interval is not None
        intervals[what, "influence"] = true_value, interval
        intervals[what, "uncorrected"] = true_value, (point - reach, point + reach)
    return intervals


def lines(simulate: Simulate, draws: int) -> list[str]:
    """Make the lines of a Markdown table."""
    rows = []
    for name, coverages in zip(SCENARIOS, simulate(coverage, SCENARIOS.values()), strict=True):
        for what in ("mean", "difference"):
            cells = (coverages[what, method] for method in METHODS)
            rows.append([name, what, *map(_cell, cells)])
    title = f"Intervals of 95 %, {draws:,} draws: covered, truth below (%), mean width."
    return [title, "", table(["cohort", "of", *METHODS], rows, left=2)]


def _cell(one: Coverage) -> str:
    return f"{100 * one.covered:.1f}, {100 * one.truth_below:.1f}, {one.width:.3f}"


if __name__ == "__main__":
    command(__doc__.splitlines()[0], 1000, lines)
