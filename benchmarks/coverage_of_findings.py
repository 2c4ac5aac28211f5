"""How often the intervals of one finding's AUC and other measures contain the true value.

    python benchmarks/coverage_of_findings.py [--draws 2000] [--processes 1] [--out FILE]

Draws cohorts of 300 negative patients and 5 to 200 positive ones, from distributions whose AUC is
known. First the AUC: the tables' interval (`auc_interval`) beside the interval on the logit scale
alone, which means have, and the tables' interval as if every image were another patient's. Then the
measures at 10, 20, 50 and 200 positive patients with several images each; their true values are
those of a very large cohort. Prints the percentage of draws whose interval contains the truth, and
the mean width. Draws without an interval, such as those with an AUC of 1, are left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import multiprocessing
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit
from scipy.stats import norm

sys.path.append(str(Path(__file__).resolve().parents[1]))  # the package need not be installed

from cohorts import Cohort, Scenario, draw, single

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
Covered = dict[str, tuple[float, float]]
"""Per method or measure: the share of draws that cover, and the mean width."""


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


def covered(intervals: list[dict[str, Interval | None]], truth: dict[str, float]) -> Covered:
    """Count how often the intervals of all draws contain the truth."""
    found = {}
    for name, true in truth.items():
        ends = np.array([one[name] for one in intervals if one[name] is not None], float)
        low, high = ends.reshape(-1, 2).T
        found[name] = float(((low <= true) & (true <= high)).mean()), float((high - low).mean())
    return found


def auc_coverage(scenario: Scenario, draws: int) -> Covered:
    """Measure the coverage of the intervals of one AUC."""
    cohorts = (draw(scenario, np.random.default_rng(seed)) for seed in range(draws))
    return covered(list(map(auc_intervals, cohorts)), dict.fromkeys(METHODS, scenario.aucs[0]))


def measure(cohort: Cohort) -> tuple[dict[str, float], dict[str, Interval | None]]:
    """Compute all measures of the first branch with their intervals."""
    labels, scores = cohort.labels[:, 0], cohort.scores["first"][:, 0]
    logits = 1.5 * scores - 3  # too high and too extreme
    found = finding_metrics(labels, expit(logits), cohort.patient, logits)
    point = operating_point(labels, scores, THRESHOLD, cohort.patient)
    values = {name: getattr(found, name) for name in found.intervals}
    values |= {name: getattr(point, name).value for name in SHARES}
    intervals = dict(found.intervals) | {name: getattr(point, name).interval for name in SHARES}
    return values, intervals


def measure_coverage(positives: int, draws: int) -> Covered:
    """Measure the coverage of the intervals of the measures, at an AUC of 0.85."""
    scenario = single(positives, 0.85, several=True)
    many = dataclasses.replace(
        scenario, few=(200 * positives, 200 * positives), patients=200 * scenario.patients
    )
    truth, _ = measure(draw(many, np.random.default_rng(0)))
    cohorts = (draw(scenario, np.random.default_rng(seed)) for seed in range(draws))
    return covered([measure(cohort)[1] for cohort in cohorts], truth)


def main() -> None:
    """Print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=2000, help="cohorts per scenario")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, help="file for the tables")
    options = parser.parse_args()
    scenarios = {
        (kind, auc, positives): single(positives, auc, **changes)
        for kind, changes in KINDS.items()
        for auc in AUCS
        for positives in POSITIVES
    }
    some = POSITIVES[1:]
    with multiprocessing.Pool(options.processes) as pool:
        aucs = pool.map(functools.partial(auc_coverage, draws=options.draws), scenarios.values(), 1)
        measures = pool.map(functools.partial(measure_coverage, draws=options.draws), some, 1)
    lines = [
        f"Intervals of 95 %, {options.draws:,} draws: covered (%), mean width.",
        "",
        f"| patients have | AUC | positive patients: | {' | '.join(map(str, POSITIVES))} |",
        f"| --- | ---: | --- |{' ---: |' * len(POSITIVES)}",
    ]
    of = dict(zip(scenarios, aucs, strict=True))
    for kind, auc, method in itertools.product(KINDS, AUCS, METHODS):
        cells = _cells(of[kind, auc, positives][method] for positives in POSITIVES)
        lines.append(f"| {kind} | {auc} | {method} | {cells} |")
    lines += ["", f"| measure, positive patients: | {' | '.join(map(str, some))} |"]
    lines += [f"| --- |{' ---: |' * len(some)}"]
    for name in measures[0]:
        lines.append(f"| {name.replace('_', ' ')} | {_cells(one[name] for one in measures)} |")
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if options.out:
        options.out.write_text(text, encoding="utf-8")


def _cells(values: Iterable[tuple[float, float]]) -> str:
    return " | ".join(f"{100 * share:.1f}, {width:.3f}" for share, width in values)


if __name__ == "__main__":
    main()
