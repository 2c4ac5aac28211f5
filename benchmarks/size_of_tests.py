"""Size of the paired test: how often it calls two equally good models different.

    python benchmarks/size_of_tests.py [--draws 10000] [--processes 1] [--out FILE]

Draws cohorts of 300 negative patients and 10 to 200 positive ones, with one or several images each,
and two models with the same AUC and correlated scores. Prints the share of draws with p < 0.05 from
the t distribution, as the tables have it, and from the normal distribution. Then the same for 14
findings at once: the share of draws in which any is called different after Holm's correction.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import numpy as np
from scipy.stats import norm

sys.path.append(str(Path(__file__).resolve().parents[1]))  # the package need not be installed

from cohorts import Cohort, Scenario, Simulate, cohorts, command, single
from reporting import table

from agcnn_jax.metrics.auc_table import auc_table
from agcnn_jax.metrics.paired_test import PairedTest, holm, paired_test

LEVEL = 0.05
POSITIVES = (10, 20, 50, 200)
KINDS = {
    f"AUC {auc}, correlation {alike}, {images}": functools.partial(
        single, auc=auc, several=images == "several images", alike=alike
    )
    for auc in (0.75, 0.9)
    for alike in (0.5, 0.8)
    for images in ("one image", "several images")
}
FAMILIES = {
    f"14 findings with {low} to {high} positive patients": Scenario(0, many=(low, high), gain=0.0)
    for low, high in ((10, 20), (20, 60))
}


def tests(cohort: Cohort) -> list[PairedTest]:
    """Test the difference of each finding."""
    names = tuple(map(str, range(cohort.labels.shape[1])))
    results = auc_table(
        cohort.labels, cohort.scores, labels=names, findings=names, patient_ids=cohort.patient
    )
    first, second = results["first"], results["second"]
    change = first.mean.influence.minus(second.mean.influence)
    differences = [(first.auc[name] or 0) - (second.auc[name] or 0) for name in names]
    return [paired_test(difference, change.of([i])) for i, difference in enumerate(differences)]


def sizes(scenario: Scenario, draws: int) -> tuple[float, float]:
    """Return the shares of draws with any rejection, by t and by the normal distribution."""
    rejected = np.zeros(2)
    for cohort in cohorts(scenario, draws):
        by_finding = tests(cohort)
        normal = [
            None if one.error is None else float(2 * norm.sf(abs(one.difference) / one.error))
            for one in by_finding
        ]
        for which, p_values in enumerate(([one.p for one in by_finding], normal)):
            rejected[which] += any(p is not None and p < LEVEL for p in holm(p_values))
    by_t, by_normal = (rejected / draws).tolist()
    return by_t, by_normal


def lines(simulate: Simulate, draws: int) -> list[str]:
    """Make the lines of two Markdown tables."""
    scenarios = [make(positives) for make in KINDS.values() for positives in POSITIVES]
    shares = simulate(sizes, [*scenarios, *FAMILIES.values()])
    cells = [f"{by_t:.3f} ({by_normal:.3f})" for by_t, by_normal in shares]
    columns = len(POSITIVES)
    rows = [[name, *cells[i * columns : (i + 1) * columns]] for i, name in enumerate(KINDS)]
    families = zip(FAMILIES, cells[len(scenarios) :], strict=True)
    titles = ["models", *(f"{positives} positive patients" for positives in POSITIVES)]
    return [
        f"Share of {draws:,} draws in which a true hypothesis is rejected at {LEVEL}: by t, and",
        "in brackets by the normal distribution.",
        "",
        table(titles, rows, left=1),
        "",
        table(["any of several, after Holm's correction", ""], families, left=1),
    ]


if __name__ == "__main__":
    command(__doc__.splitlines()[0], 10_000, lines)
