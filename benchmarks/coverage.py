"""How often intervals of mean AUCs contain the true value.

    python benchmarks/coverage.py [--draws 1000] [--out FILE]

Draws cohorts of patients with several images each, 14 findings and two branches with correlated
scores, from distributions whose AUCs are known. Computes intervals of one branch's mean AUC and of
the difference between the branches: those of the tables, and for comparison those of the normal
distribution without a correction for few patients. Prints the percentage of draws whose interval
contains the truth, the percentage whose truth lies below it, and the mean width.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import norm

sys.path.append(str(Path(__file__).resolve().parents[1]))  # the package need not be installed

from cohorts import AUCS, Cohort, Scenario, draw

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


class Coverage(NamedTuple):
    """Shares of the draws, and the mean width of the interval."""

    covered: float
    truth_below: float
    width: float

    def __str__(self) -> str:
        return f"{100 * self.covered:.1f}, {100 * self.truth_below:.1f}, {self.width:.3f}"


def coverage(scenario: Scenario, draws: int) -> dict[tuple[str, str], Coverage]:
    """Measure the coverage of the intervals of the mean and of the difference, for each method."""
    found: dict[tuple[str, str], list[tuple[bool, bool, float]]] = {}
    for seed in range(draws):
        cohort = draw(scenario, np.random.default_rng(seed))
        for key, (truth, (low, high)) in _intervals(cohort).items():
            found.setdefault(key, []).append((low <= truth <= high, truth < low, high - low))
    return {key: Coverage(*np.mean(values, axis=0).tolist()) for key, values in found.items()}


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
    found: dict[tuple[str, str], tuple[float, tuple[float, float]]] = {}
    for what, (point, interval, influence, true_value) in quantities.items():
        by_patient = influence.values.sum(axis=(0, 1)) / len(FINDINGS)
        reach = norm.ppf((1 + LEVEL) / 2) * float(np.sqrt((by_patient**2).sum()))
        assert interval is not None
        found[what, "influence"] = true_value, interval
        found[what, "uncorrected"] = true_value, (point - reach, point + reach)
    return found


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=1000, help="cohorts per scenario")
    parser.add_argument("--out", type=Path, help="file for the table")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    lines = [
        f"Intervals of 95 %, {options.draws:,} draws: covered, truth below (%), mean width.",
        "",
        f"| cohort | of | {' | '.join(METHODS)} |",
        f"| --- | --- |{' ---: |' * len(METHODS)}",
    ]
    job = functools.partial(coverage, draws=options.draws)
    with multiprocessing.Pool(options.processes) as pool:
        for name, found in zip(SCENARIOS, pool.map(job, SCENARIOS.values(), 1), strict=True):
            for what in ("mean", "difference"):
                shown = (found.get((what, method), "") for method in METHODS)
                lines.append(f"| {name} | {what} | {' | '.join(map(str, shown))} |")
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
