"""Simulated cohorts whose AUCs are known, and the command of the benchmarks that draw them."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import norm

# The AUC of each finding in the first branch; rare findings come first.
AUCS = tuple(x / 100 for x in (93, 82, 72, 86, 77, 90, 74, 91, 78, 83, 75, 88, 80, 85))
_PLAIN = 3  # how far plainly visible findings stand out, in standard deviations


@dataclasses.dataclass(frozen=True)
class Scenario:
    """A kind of cohort.

    Attributes:
        rare: number of rare findings.
        few: smallest and largest number of positive patients of a rare finding.
        many: the same for the other findings.
        patients: number of patients.
        common: share of a score's variance that comes from the patient.
        own: share that comes from the patient and the finding.
        alike: correlation between the branches' scores.
        gain: additional shift of the second branch's positives, in standard deviations.
        missed: positives are either plainly visible or invisible, instead of normally distributed.
        spread: standard deviation of positives, that of negatives being 1.
        aucs: of each finding in the first branch.
        several: patients have 1 to 12 images, 2.9 on average, instead of one.
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
    spread: float = 1.0
    aucs: tuple[float, ...] = AUCS
    several: bool = True


class Cohort(NamedTuple):
    """Labels `[N, F]`, scores `[N, F]` of two branches, patients `[N]`, and true mean AUCs."""

    labels: np.ndarray
    scores: dict[str, np.ndarray]
    patient: np.ndarray
    truth: dict[str, float]


def draw(scenario: Scenario, generator: np.random.Generator) -> Cohort:
    """Draw a cohort whose AUCs are known, apart from the few pairs of images of one patient."""
    images = np.ones(scenario.patients, int)
    if scenario.several:
        images = np.minimum(generator.geometric(0.35, scenario.patients), 12)
    patient = np.repeat(np.arange(scenario.patients), images)
    labels = _labels(scenario, patient, generator)
    true, findings = np.array(scenario.aucs), len(scenario.aucs)

    def noise() -> np.ndarray:
        by_patient = generator.normal(size=scenario.patients)[patient, None]
        by_finding = generator.normal(size=(scenario.patients, findings))[patient]
        rest = np.sqrt(1 - scenario.common - scenario.own) * generator.normal(size=labels.shape)
        return np.sqrt(scenario.common) * by_patient + np.sqrt(scenario.own) * by_finding + rest

    shared = noise()
    luck = generator.random((scenario.patients, findings))[patient]
    scores, truth = {}, {}
    for branch, gain in (("first", 0.0), ("second", scenario.gain)):
        together = np.sqrt(1 + scenario.spread**2)
        apart = together * norm.ppf(true) + gain
        visible: np.ndarray | float = 1.0
        aucs = norm.cdf(apart / together)
        if scenario.missed:
            part = (true - 0.5) / (norm.cdf(_PLAIN / together) - 0.5)
            apart, visible = np.full(findings, _PLAIN + gain), luck < part
            aucs = part * norm.cdf(apart / together) + (1 - part) / 2
        own = np.sqrt(1 - scenario.alike) * noise()
        noises = np.sqrt(scenario.alike) * shared + own
        noises = np.where(labels, scenario.spread, 1) * noises
        scores[branch] = noises + labels * visible * apart
        truth[branch] = float(aucs.mean())
    return Cohort(labels, scores, patient, truth)


def _labels(scenario: Scenario, patient: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Draw labels `[N, F]`; some patients are likelier than others to have many findings."""
    sick = np.exp(generator.normal(0, 0.7, scenario.patients))
    labels = np.zeros((len(patient), len(scenario.aucs)), np.uint8)
    first = np.searchsorted(patient, np.arange(scenario.patients))
    for finding in range(len(scenario.aucs)):
        least, most = scenario.few if finding < scenario.rare else scenario.many
        count = generator.integers(least, most + 1)
        have = generator.choice(scenario.patients, count, replace=False, p=sick / sick.sum())
        labels[:, finding] = np.isin(patient, have) & (generator.random(len(patient)) < 0.6)
        labels[first[have], finding] = 1  # at least one of a patient's images shows it
    return labels


def single(positives: int, auc: float, several: bool, **changes: Any) -> Scenario:
    """Make a scenario of one finding with that many positive and 300 negative patients.

    Scores of one patient correlate by 0.5, and both branches are equally good.
    """
    values: dict[str, Any] = {
        "common": 0.2,
        "own": 0.3,
        "gain": 0.0,
        "patients": positives + 300,
        **changes,
    }
    return Scenario(1, (positives, positives), aucs=(auc,), several=several, **values)


def cohorts(scenario: Scenario, draws: int) -> Iterator[Cohort]:
    """Draw this many cohorts, with the seeds 0, 1, ..."""
    return (draw(scenario, np.random.default_rng(seed)) for seed in range(draws))


class Coverage(NamedTuple):
    """The share of draws that have an interval, and the mean width of these intervals."""

    covered: float
    truth_below: float
    width: float


def coverage_of(intervals: Iterable[tuple[float, float] | None], truth: float) -> Coverage:
    """Count how often intervals contain the truth; None is no interval."""
    ends = np.array([interval for interval in intervals if interval is not None], float)
    low, high = ends.reshape(-1, 2).T
    covered = (low <= truth) & (truth <= high)
    return Coverage(float(covered.mean()), float((truth < low).mean()), float((high - low).mean()))


Simulate = Callable[[Callable[..., Any], Iterable[Any]], list[Any]]
"""Maps a function of a scenario and `draws` over scenarios."""


def command(
    description: str, draws: int, make_lines: Callable[[Simulate, int], Iterable[str]]
) -> None:
    """Run a command that simulates cohorts in some processes, and prints Markdown tables.

    Args:
        description: what the command is for, in a line.
        draws: number of cohorts per scenario, unless `--draws` says another.
        make_lines: makes the lines of the tables from a function that simulates, and the draws.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--draws", type=int, default=draws, help="cohorts per scenario")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, help="file for the tables")
    options = parser.parse_args()
    with multiprocessing.Pool(options.processes) as pool:

        def simulate(function: Callable[..., Any], scenarios: Iterable[Any]) -> list[Any]:
            return pool.map(functools.partial(function, draws=options.draws), scenarios, 1)

        text = "\n".join(make_lines(simulate, options.draws)) + "\n"
    print(text, end="")
    if options.out:
        options.out.write_text(text, encoding="utf-8")
