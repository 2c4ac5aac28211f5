"""How often intervals of mean AUCs contain the true value.

    python benchmarks/coverage.py [--draws 1000] [--methods influence,percentile,...] [--out FILE]

Draws cohorts of patients with several images each, 14 findings and two branches with correlated
scores, from distributions whose AUCs are known. Computes intervals of one branch's mean AUC and of
the difference between the branches. Prints the percentage of draws whose interval contains the
truth, the percentage whose truth lies below it, and the mean width. The tables use `influence`.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import multiprocessing
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm

from agcnn_jax.metrics.auc import bootstrap_aucs
from agcnn_jax.metrics.auc_table import auc_table, paired_difference
from agcnn_jax.metrics.bootstrap import LEVEL, patient_resamples

FINDINGS = tuple(f"finding {number}" for number in range(14))
TABLE = functools.partial(auc_table, labels=FINDINGS, findings=FINDINGS, resamples=0)
RESAMPLES = 400
METHODS = ("influence", "uncorrected", "percentile", "bca", "logit")
# The AUC of each finding in the first branch; rare findings come first.
AUCS = np.array([93, 82, 72, 86, 77, 90, 74, 91, 78, 83, 75, 88, 80, 85]) / 100


@dataclasses.dataclass(frozen=True)
class Scenario:
    """A kind of cohort.

    Attributes:
        rare: number of rare findings among the 14.
        few: smallest and largest number of positive patients of a rare finding.
        many: the same for the other findings.
        patients: number of patients; each has 1 to 12 images, 2.9 on average.
        common: share of a score's variance that comes from the patient.
        own: share that comes from the patient and the finding.
        alike: correlation between the branches' scores.
        gain: additional shift of the second branch's positives, in standard deviations.
        missed: positives are either plainly visible or invisible, instead of normally distributed.
    """

    rare: int
    few: tuple[int, int] = (3, 6)
    many: tuple[int, int] = (10, 60)
    patients: int = 250
    common: float = 0.15
    own: float = 0.3
    alike: float = 0.8
    gain: float = 0.1
    missed: bool = False


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


class Cohort(NamedTuple):
    """Labels `[N, 14]`, scores `[N, 14]` of two branches, patients `[N]`, and true mean AUCs."""

    labels: np.ndarray
    scores: dict[str, np.ndarray]
    patient: np.ndarray
    truth: dict[str, float]


def draw(scenario: Scenario, generator: np.random.Generator) -> Cohort:
    """Draw a cohort whose AUCs are known, apart from the few pairs of images of one patient."""
    images = np.minimum(generator.geometric(0.35, scenario.patients), 12)
    patient = np.repeat(np.arange(scenario.patients), images)
    labels = _labels(scenario, patient, generator)

    def noise() -> np.ndarray:
        by_patient = generator.normal(size=scenario.patients)[patient, None]
        by_finding = generator.normal(size=(scenario.patients, 14))[patient]
        rest = np.sqrt(1 - scenario.common - scenario.own) * generator.normal(size=labels.shape)
        return np.sqrt(scenario.common) * by_patient + np.sqrt(scenario.own) * by_finding + rest

    shared = noise()
    luck = generator.random((scenario.patients, 14))[patient]
    scores, truth = {}, {}
    for branch, gain in (("first", 0.0), ("second", scenario.gain)):
        apart = np.sqrt(2) * norm.ppf(AUCS) + gain
        seen: np.ndarray | float = 1.0
        aucs = norm.cdf(apart / np.sqrt(2))
        if scenario.missed:
            part = (AUCS - 0.5) / (norm.cdf(3 / np.sqrt(2)) - 0.5)
            apart, seen = np.full(14, 3 + gain), luck < part
            aucs = part * norm.cdf(apart / np.sqrt(2)) + (1 - part) / 2
        own = np.sqrt(1 - scenario.alike) * noise()
        scores[branch] = np.sqrt(scenario.alike) * shared + own + labels * seen * apart
        truth[branch] = float(aucs.mean())
    return Cohort(labels, scores, patient, truth)


def _labels(scenario: Scenario, patient: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Draw labels `[N, 14]`; some patients are likelier than others to have many findings."""
    sick = np.exp(generator.normal(0, 0.7, scenario.patients))
    labels = np.zeros((len(patient), 14), np.uint8)
    first = np.searchsorted(patient, np.arange(scenario.patients))
    for finding in range(14):
        least, most = scenario.few if finding < scenario.rare else scenario.many
        count = generator.integers(least, most + 1)
        have = generator.choice(scenario.patients, count, replace=False, p=sick / sick.sum())
        labels[:, finding] = np.isin(patient, have) & (generator.random(len(patient)) < 0.6)
        labels[first[have], finding] = 1  # at least one of a patient's images shows it
    return labels


class Coverage(NamedTuple):
    """Shares of the draws, and the mean width of the interval."""

    covered: float
    truth_below: float
    width: float

    def __str__(self) -> str:
        return f"{100 * self.covered:.1f}, {100 * self.truth_below:.1f}, {self.width:.3f}"


def coverage(
    scenario: Scenario, draws: int, methods: Sequence[str] = METHODS
) -> dict[tuple[str, str], Coverage]:
    """Measure the coverage of the intervals of the mean and of the difference, for each method."""
    found: dict[tuple[str, str], list[tuple[bool, bool, float]]] = {}
    for seed in range(draws):
        cohort = draw(scenario, np.random.default_rng(seed))
        for key, (truth, (low, high)) in _intervals(cohort, methods, seed).items():
            found.setdefault(key, []).append((low <= truth <= high, truth < low, high - low))
    return {key: Coverage(*np.mean(values, axis=0).tolist()) for key, values in found.items()}


def _intervals(
    cohort: Cohort, methods: Sequence[str], seed: int
) -> dict[tuple[str, str], tuple[float, tuple[float, float]]]:
    """Compute `{(quantity, method): (truth, interval)}`."""
    results = TABLE(cohort.labels, cohort.scores, patient_ids=cohort.patient)
    first, second = results["first"].mean, results["second"].mean
    paired = paired_difference(second, first)
    assert paired is not None
    assert second.value is not None
    gain, truth = second.influence.minus(first.influence), cohort.truth
    quantities = {
        "mean": (second.value, second.influence, truth["second"]),
        "difference": (paired[0], gain, truth["second"] - truth["first"]),
    }
    samples = {}
    if set(methods) & {"percentile", "bca", "logit"}:
        by_branch = _resampled(cohort, seed)
        samples["mean"] = second.value + by_branch["second"]
        samples["difference"] = paired[0] + by_branch["second"] - by_branch["first"]
    found = {}
    for what, (point, influence, true_value) in quantities.items():
        by_patient = influence.values.sum(axis=(0, 1)) / len(FINDINGS)
        for method in methods:
            if method == "influence":
                interval = second.interval if what == "mean" else paired[1]
                assert interval is not None
                low, high = interval
            elif method == "uncorrected":
                reach = norm.ppf((1 + LEVEL) / 2) * np.sqrt((by_patient**2).sum())
                low, high = point - reach, point + reach
            elif method == "percentile":
                low, high = np.quantile(samples[what], ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
            elif method == "bca":
                low, high = _bca(samples[what], point, by_patient)
            elif what == "mean":  # logit
                spread = samples[what].std(ddof=1) / (point * (1 - point))
                reach = norm.ppf((1 + LEVEL) / 2) * spread
                low, high = expit(logit(point) - reach), expit(logit(point) + reach)
            else:
                continue
            found[what, method] = true_value, (float(low), float(high))
    return found


def _resampled(cohort: Cohort, seed: int) -> dict[str, np.ndarray]:
    """Compute the change of each branch's mean AUC in each resample of patients `[R]`."""
    patients = int(cohort.patient.max()) + 1
    counts = np.concatenate(list(patient_resamples(patients, RESAMPLES, seed)))
    weights = np.concatenate([np.ones((1, patients), np.int32), counts])[:, cohort.patient]
    found = {}
    for branch, scores in cohort.scores.items():
        aucs = bootstrap_aucs(cohort.labels, scores, weights)
        found[branch] = np.nanmean(aucs[1:] - aucs[0], axis=1)
    return found


def _bca(samples: np.ndarray, point: float, by_patient: np.ndarray) -> np.ndarray:
    """Compute Efron's bias-corrected and accelerated interval."""
    bias = norm.ppf(np.clip((samples < point).mean(), 1e-3, 1 - 1e-3))
    skew = (by_patient**3).sum() / (6 * (by_patient**2).sum() ** 1.5)
    shifted = bias + norm.ppf(((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return np.quantile(samples, norm.cdf(bias + shifted / (1 - skew * shifted)))


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=1000, help="cohorts per scenario")
    parser.add_argument("--methods", default=",".join(METHODS), help=", ".join(METHODS))
    parser.add_argument("--out", type=Path, help="file for the table")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    methods = options.methods.split(",")
    if unknown := set(methods) - set(METHODS):
        parser.error(f"--methods: unknown {', '.join(sorted(unknown))}")
    lines = [
        f"Intervals of 95 %, {options.draws:,} draws: covered, truth below (%), mean width.",
        "",
        f"| cohort | of | {' | '.join(methods)} |",
        f"| --- | --- |{' ---: |' * len(methods)}",
    ]
    job = functools.partial(coverage, draws=options.draws, methods=methods)
    with multiprocessing.Pool(options.processes) as pool:
        for name, found in zip(SCENARIOS, pool.map(job, SCENARIOS.values(), 1), strict=True):
            for what in ("mean", "difference"):
                shown = (found.get((what, method), "") for method in methods)
                lines.append(f"| {name} | {what} | {' | '.join(map(str, shown))} |")
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
