"""The patients of a cohort, their films and findings, with the statistics of ChestX-ray14.

Label sets are drawn with the counts of the real table (`label_sets.csv`). With prevalence `real`,
the prevalence and co-occurrence of findings are those of the table. With `floor`, rare findings are
frequent enough to estimate AUCs on a test set of a few hundred patients. Low-discrepancy sequences
replace random numbers, so that a few thousand films have the prevalences of 112,120.
Patient p depends only on the seed, the prevalence and p, not on the number of patients.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from agcnn_jax.data_prep.phantom.lesions import FINDINGS

NO_FINDING = "No Finding"
PREVALENCES = ("floor", "real")
# Smallest share of films with a finding, with prevalence `floor`: 40 or more positive patients
# among the 550 test patients of 2,400.
FLOOR = 0.03
# Second 32-bit word of the seeds of `floor`. For `real` it is a patient's number, always smaller.
FLOOR_STREAM = 2**32 - 1
LABEL_SETS = Path(__file__).with_name("label_sets.csv")
# Number of patients in ChestX-ray14 with 1 to 29 films, then with 30 or more (drawn as 30).
PATIENTS_BY_FILMS = (
    17503, 4113, 2100, 1330, 938, 787, 608, 494, 387, 320, 281, 235, 165, 181, 121,
    120, 91, 77, 77, 74, 68, 39, 50, 51, 45, 35, 38, 27, 25, 425,
)  # fmt: skip
# Probability that a follow-up keeps the previous label set. Together with redrawn sets that happen
# to agree, 41 % repeat it, as in ChestX-ray14.
KEEP = 0.25
# Share of AP films, mean age and share of men with each finding in ChestX-ray14.
PORTABLE = {
    NO_FINDING: 0.35, "Atelectasis": 0.50, "Cardiomegaly": 0.44, "Consolidation": 0.67,
    "Edema": 0.88, "Effusion": 0.51, "Emphysema": 0.40, "Fibrosis": 0.17, "Hernia": 0.15,
    "Infiltration": 0.53, "Mass": 0.38, "Nodule": 0.34, "Pleural_Thickening": 0.29,
    "Pneumonia": 0.56, "Pneumothorax": 0.36,
}  # fmt: skip
MEAN_AGE = {
    NO_FINDING: 45.5, "Atelectasis": 50.2, "Cardiomegaly": 47.0, "Consolidation": 46.4,
    "Edema": 45.1, "Effusion": 49.5, "Emphysema": 50.1, "Fibrosis": 52.5, "Hernia": 63.0,
    "Infiltration": 46.0, "Mass": 48.5, "Nodule": 49.3, "Pleural_Thickening": 50.2,
    "Pneumonia": 44.4, "Pneumothorax": 46.3,
}  # fmt: skip
MEN = {
    NO_FINDING: 0.56,
    "Cardiomegaly": 0.47,
    "Hernia": 0.42,
    "Pneumothorax": 0.51,
    "Emphysema": 0.64,
}
# Sorted by the number of images in the real table, rarest first.
FINDINGS_BY_RARITY = (
    "Hernia", "Pneumonia", "Fibrosis", "Edema", "Emphysema", "Cardiomegaly", "Pleural_Thickening",
    "Consolidation", "Pneumothorax", "Mass", "Nodule", "Atelectasis", "Effusion", "Infiltration",
)  # fmt: skip
TEST_SHARE = 0.23
# Every finding occurs among this number of first patients.
ALL_FINDINGS_WITHIN = 96
# Irrational steps of the sequences for films per patient, label sets, and kept label sets.
STEPS = (0.7548776662466927, 0.6180339887498949, 0.41421356237309515)


@dataclasses.dataclass(frozen=True)
class Film:
    """A row of the label table.

    Attributes:
        follow_up: 0 for the first film.
        findings: in alphabetical order; empty for No Finding.
        age: in years.
        portable: AP film taken at the bedside, instead of PA.
    """

    follow_up: int
    findings: tuple[str, ...]
    age: int
    portable: bool


@dataclasses.dataclass(frozen=True)
class Patient:
    """A patient; `number` counts from 1."""

    number: int
    female: bool
    films: tuple[Film, ...]


def cohort_seed(seed: int, prevalence: str) -> int:
    """Return the seed of all random numbers of a cohort.

    No two cohorts share any of them, so that no film belongs to both.
    """
    return seed if prevalence == "real" else seed + (FLOOR_STREAM << 32)


@functools.cache
def label_sets(prevalence: str) -> tuple[tuple[tuple[str, ...], ...], np.ndarray]:
    """Return the label sets of the real table and their cumulative shares, float64 [N].

    Sets with the same rarest finding are neighbours, so that sampling the shares evenly samples
    every finding evenly.

    Args:
        prevalence: `real`, or `floor` to raise the shares with `raise_to_floor`.
    """
    with LABEL_SETS.open() as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    images: Counter[tuple[str, ...]] = Counter()
    for row in rows:
        names = row["Finding Labels"].split("|")
        images[tuple(sorted(set(names) - {NO_FINDING}))] += int(row["Images"])
    of_finding: Counter[str] = Counter()
    for names_set, count in images.items():
        of_finding.update(dict.fromkeys(names_set, count))

    def key(names: tuple[str, ...]) -> list[tuple[int, str]]:
        return sorted((of_finding[name], name) for name in names)

    ordered = sorted(images, key=key)
    shares = np.array([images[names] for names in ordered], float)
    shares /= shares.sum()
    if prevalence == "floor":
        shares = raise_to_floor(ordered, shares)
    shares = np.cumsum(shares)
    return tuple(ordered), shares / shares[-1]


def raise_to_floor(sets: list[tuple[str, ...]], shares: np.ndarray) -> np.ndarray:
    """Raise the shares of label sets until every finding is on a share `FLOOR` of the films.

    Sets with the same rarest finding are scaled by the same factor, which preserves how findings
    occur together. The share of films without a finding decreases accordingly.

    Args:
        sets: label sets, one of them empty.
        shares: of the films, float64 [N].

    Returns:
        Shares of the films, float64 [N].
    """
    shares = shares.copy()
    rarest = [next((name for name in FINDINGS_BY_RARITY if name in names), "") for names in sets]
    for finding in FINDINGS_BY_RARITY:
        having = np.array([finding in names for names in sets])
        group = np.array([name == finding for name in rarest])
        lacking = max(0.0, FLOOR - shares[having].sum())
        shares[group] *= 1 + lacking / shares[group].sum()
    shares[sets.index(())] -= shares.sum() - 1
    return shares


def patient(seed: int, number: int, prevalence: str = "floor") -> Patient:
    """Return patient `number` (from 1) of a cohort."""
    rng = np.random.default_rng([cohort_seed(seed, prevalence), number])
    sets = _sets(seed, prevalence, number)
    guaranteed = _guaranteed(seed, prevalence).get(number)
    if guaranteed is not None:
        sets = [guaranteed, *sets[1:]]
    first = sets[0] or (NO_FINDING,)
    female = rng.random() > np.mean([MEN.get(name, 0.58) for name in first])
    age = rng.normal(np.mean([MEAN_AGE[name] for name in first]) + 0.5, 16.5)
    films = []
    for follow_up, names in enumerate(sets):
        chance = np.mean([PORTABLE[name] for name in names or (NO_FINDING,)])
        years = int(np.clip(age, 5, 94))
        films.append(Film(follow_up, names, years, bool(rng.random() < chance)))
        age += rng.exponential(0.4)
    return Patient(number, bool(female), tuple(films))


def patients(seed: int, count: int, prevalence: str = "floor") -> Iterator[Patient]:
    """Yield the first `count` patients of a cohort; `prevalence` is one of `PREVALENCES`."""
    return (patient(seed, number, prevalence) for number in range(1, count + 1))


def in_test(cohort: list[Patient]) -> list[bool]:
    """Return for each patient whether the official test list contains them; it has 23 % of them.

    Patients are grouped by their rarest finding, and each group is divided in this ratio, so that
    rare findings are in both lists. The second patient of a group is its first test patient.
    """
    sizes: Counter[str] = Counter()
    tested = []
    for person in cohort:
        ever = {finding for film in person.films for finding in film.findings}
        group = next((finding for finding in FINDINGS_BY_RARITY if finding in ever), NO_FINDING)
        rank = sizes[group]
        sizes[group] += 1
        tested.append(int((rank + 3.4) * TEST_SHARE) > int((rank + 2.4) * TEST_SHARE))
    return tested


@functools.lru_cache(maxsize=8)
def _offsets(seed: int, prevalence: str) -> np.ndarray:
    """Return the starting values of a cohort's sequences, float64 [3]."""
    return np.random.default_rng([cohort_seed(seed, prevalence), 0]).random(3)


@functools.lru_cache(maxsize=8)
def _first_films(seed: int, prevalence: str, count: int) -> np.ndarray:
    """Return the index of the first film of patients 1 to `count` + 1, int64 [count + 1]."""
    shares = (_offsets(seed, prevalence)[0] + np.arange(1, count + 1) * STEPS[0]) % 1.0
    steps = np.cumsum(PATIENTS_BY_FILMS) / sum(PATIENTS_BY_FILMS)
    films = 1 + np.searchsorted(steps, shares, side="right")
    return np.concatenate([[0], np.cumsum(films)])


def _sets(seed: int, prevalence: str, number: int) -> list[tuple[str, ...]]:
    """Return the label sets of a patient's films, without those of `_guaranteed`."""
    starts = _first_films(seed, prevalence, max(1024, 1 << number.bit_length()))
    index = np.arange(starts[number - 1], starts[number])
    begin = _offsets(seed, prevalence)
    keep = (begin[2] + index * STEPS[2]) % 1.0 < KEEP
    names, shares = label_sets(prevalence)
    at = np.searchsorted(shares, (begin[1] + index * STEPS[1]) % 1.0, side="right")
    sets: list[tuple[str, ...]] = []
    for k in range(len(index)):
        sets.append(sets[-1] if k and keep[k] else names[int(at[k])])
    return sets


@functools.lru_cache(maxsize=8)
def _guaranteed(seed: int, prevalence: str) -> dict[int, tuple[str, ...]]:
    """Return patient -> first label set that replaces the drawn one to add a missing finding."""
    numbers = range(1, ALL_FINDINGS_WITHIN + 1)
    early = {number: _sets(seed, prevalence, number) for number in numbers}
    present = set(itertools.chain.from_iterable(itertools.chain.from_iterable(early.values())))
    spare = [number for number, sets in early.items() if sets == [()]]
    missing = [finding for finding in FINDINGS if finding not in present]
    return {number: (finding,) for number, finding in zip(spare, missing, strict=False)}
