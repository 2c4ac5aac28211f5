"""The phantoms' patients and findings: the real table's statistics."""

import csv
import gzip
import itertools
import re
from collections import Counter

import numpy as np
import pytest
from scipy.stats import spearmanr

from agcnn_jax.data_prep.phantom import cohort
from agcnn_jax.data_prep.phantom.lesions import FINDINGS
from tests.data_prep.nih_files import ROOT
from tests.support.shared import CHEST_XRAY14, needs_chest_xray14


def statistics(label_sets):
    """Return prevalence [14] and co-occurrence [91] as shares of the images."""
    single, pairs, total = Counter(), Counter(), 0
    for names, count in label_sets:
        total += count
        single.update(dict.fromkeys(names, count))
        pairs.update(dict.fromkeys(itertools.combinations(sorted(names), 2), count))
    every = list(itertools.combinations(sorted(FINDINGS), 2))
    return (
        np.array([single[name] / total for name in FINDINGS]),
        np.array([pairs[pair] / total for pair in every]),
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_prevalence_and_co_occurrence_match_the_real_table(seed):
    names, shares = cohort.label_sets("real")
    real, real_pairs = statistics(zip(names, np.diff(shares, prepend=0), strict=True))
    people = cohort.patients(seed, 1200, "real")
    films = [(film.findings, 1) for person in people for film in person.films]
    drawn, drawn_pairs = statistics(films)
    assert 3600 < len(films) < 4600
    np.testing.assert_allclose(drawn, real, atol=0.002, rtol=0.06)
    np.testing.assert_allclose(drawn_pairs, real_pairs, atol=0.003)
    frequent = real_pairs > 0.0005
    assert spearmanr(drawn_pairs[frequent], real_pairs[frequent]).statistic > 0.9


def test_floor_preserves_co_occurrence():
    names, shares = cohort.label_sets("real")
    real = np.diff(shares, prepend=0)
    _, shares = cohort.label_sets("floor")
    raised = np.diff(shares, prepend=0)
    before, after = (statistics(zip(names, part, strict=True))[0] for part in (real, raised))
    assert after.min() == pytest.approx(cohort.FLOOR)
    # A frequent finding is raised only by the rarer findings that it occurs with.
    frequent = before > cohort.FLOOR
    assert frequent.sum() == 8
    assert np.all(
        (after[frequent] > before[frequent]) & (after[frequent] < 1.15 * before[frequent])
    )
    # Among the films with the rarest finding, the other findings are as frequent as before.
    hernia = ["Hernia" in group for group in names]
    np.testing.assert_allclose(
        raised[hernia] / raised[hernia].sum(), real[hernia] / real[hernia].sum()
    )


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_demo_tests_thirty_patients_with_each_finding(seed):
    command = re.search(r"phantoms\.py .* --patients (\d+)(.*)", (ROOT / "Makefile").read_text())
    assert command and "--prevalence" not in command[2] and "--seed" not in command[2]
    people = list(cohort.patients(seed, int(command[1])))
    assert 7_500 < sum(len(person.films) for person in people) < 8_700
    tested = cohort.in_test(people)
    for wanted, least in ((True, 30), (False, 100)):
        positive = Counter(
            finding
            for person, chosen in zip(people, tested, strict=True)
            if chosen == wanted
            for finding in {finding for film in person.films for finding in film.findings}
        )
        assert min(positive[finding] for finding in FINDINGS) >= least


@needs_chest_xray14
def test_label_sets_match_the_real_table():
    source = CHEST_XRAY14 / "Data_Entry_2017_v2020.csv.gz"
    with gzip.open(source, "rt") as file:
        real = Counter(row["Finding Labels"] for row in csv.DictReader(file))
    with cohort.LABEL_SETS.open() as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    assert {row["Finding Labels"]: int(row["Images"]) for row in rows} == real


@pytest.mark.parametrize("seed", range(6))
def test_every_finding_occurs_among_the_first_hundred_patients(seed):
    people = cohort.patients(seed, 100)
    assert {f for p in people for film in p.films for f in film.findings} == set(FINDINGS)
