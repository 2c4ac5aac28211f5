"""Coverage of the intervals of one finding's AUC and of its other measures.

    python benchmarks/coverage_of_findings.py [--draws 2000] [--processes 1] [--out FILE]

Draws cohorts of 300 negative patients and 5 to 200 positive ones, from distributions whose AUC is
known. First the AUC: the tables' interval (`auc_interval`) beside the interval on the logit scale
alone, which means have, and the tables' interval as if every image were another patient's. Then the
measures at 10, 20, 50 and 200 positive patients with several images each; their true values are
those of a very large cohort. Prints the percentage of draws whose interval contains the truth, and
the mean width. Draws without an interval, such as those with an AUC of 1, are left out.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit
from scipy.stats import norm

sys.path.append(str(Path(__file__).resolve().parents[1]))  # the package need not be installed

from cohorts import (
    Cohort,
    Coverage,
    Scenario,
    Simulate,
    cohorts,
    command,
    coverage_of,
    draw,
    single,
)
from reporting import table

from agcnn_jax.metrics.auc_table import auc_table
from agcnn_jax.metrics.finding_metrics import finding_metrics
from agcnn_jax.metrics.influence import mean_interval
from agcnn_jax.metrics.interval import Interval
from agcnn_jax.metrics.operating_points import OperatingPoint, operating_point

AUCS = (0.75, 0.85, 0.95, 0.98)
POSITIVES = (5, 10, 20, 50, 200)
KINDS: dict[str, dict[str, Any]] = {
    "one image": {"several": False},
    "several images": {"several": True},
    "several images, very alike": {"several": True, "common": 0.4, "own": 0.3},
    "several images, positives vary more": {"several": True, "spread": 1.5},
}
METHODS = ("tables'", "logit scale", "over images")
THRESHOLD = float(norm.ppf(0.9))
SHARES = tuple(OperatingPoint._fields[5:])
Coverages = dict[str, Coverage]  # by method or measure


def auc_intervals(cohort: Cohort) -> dict[str, Interval | None]:
    """Compute the intervals of the first branch's AUC, by each of `METHODS`."""
    scores = {"": cohort.scores["first"]}
    over_patients, over_images = (
        auc_table(cohort.labels, scores, labels=("f",), findings=("f",), patient_ids=units)[""]
        for units in (cohort.patient, np.arange(len(cohort.labels)))
    )
    intervals = (
        over_patients.intervals["f"],
        mean_interval(over_patients.auc["f"] or 0.0, over_patients.mean.influence),
        over_images.intervals["f"],
    )
    return dict(zip(METHODS, intervals, strict=True))


def coverages(intervals: list[dict[str, Interval | None]], truths: dict[str, float]) -> Coverages:
    """Count how often the intervals of all draws contain the truth."""
    return {
        name: coverage_of([one[name] for one in intervals], truth) for name, truth in truths.items()
    }


def auc_coverage(scenario: Scenario, draws: int) -> Coverages:
    """Measure the coverage of the intervals of one AUC."""
    intervals = [auc_intervals(cohort) for cohort in cohorts(scenario, draws)]
    return coverages(intervals, dict.fromkeys(METHODS, scenario.aucs[0]))


def measure(cohort: Cohort) -> tuple[dict[str, float], dict[str, Interval | None]]:
    """Compute all measures of the first branch with their intervals."""
    labels, scores = cohort.labels[:, 0], cohort.scores["first"][:, 0]
    logits = 1.5 * scores - 3  # too high and too extreme
    metrics = finding_metrics(labels, expit(logits), cohort.patient, logits)
    point = operating_point(labels, scores, THRESHOLD, cohort.patient)
    estimates = dict(metrics.numbers) | {name: getattr(point, name) for name in SHARES}
    values = {name: one.value for name, one in estimates.items()}
    return values, {name: one.interval for name, one in estimates.items()}


def measure_coverage(positives: int, draws: int) -> Coverages:
    """Measure the coverage of the intervals of the measures, at an AUC of 0.85."""
    scenario = single(positives, 0.85, several=True)
    many = dataclasses.replace(
        scenario, few=(200 * positives, 200 * positives), patients=200 * scenario.patients
    )
    truth, _ = measure(draw(many, np.random.default_rng(0)))
    return coverages([measure(cohort)[1] for cohort in cohorts(scenario, draws)], truth)


def lines(simulate: Simulate, draws: int) -> list[str]:
    """Make the lines of two Markdown tables."""
    keys = list(itertools.product(KINDS, AUCS, POSITIVES))
    scenarios = [single(positives, auc, **KINDS[kind]) for kind, auc, positives in keys]
    aucs = dict(zip(keys, simulate(auc_coverage, scenarios), strict=True))
    some = POSITIVES[1:]
    measures = simulate(measure_coverage, some)
    titles = ["patients have", "AUC", "positive patients:", *POSITIVES]
    rows = [
        [kind, auc, method, *(_cell(aucs[kind, auc, count][method]) for count in POSITIVES)]
        for kind, auc, method in itertools.product(KINDS, AUCS, METHODS)
    ]
    others = [
        [name.replace("_", " "), *(_cell(one[name]) for one in measures)] for name in measures[0]
    ]
    title = f"Intervals of 95 %, {draws:,} draws: covered (%), mean width."
    lines = [title, "", table(titles, rows, left=3), ""]
    return [*lines, table(["measure, positive patients:", *some], others, left=1)]


def _cell(one: Coverage) -> str:
    return f"{100 * one.covered:.1f}, {one.width:.3f}"


if __name__ == "__main__":
    command(__doc__.splitlines()[0], 2000, lines)
