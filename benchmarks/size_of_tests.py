"""How often the paired test calls a difference between two models that are equally good.

    python benchmarks/size_of_tests.py [--draws 10000] [--processes 2] [--out FILE]

Draws cohorts of 300 negative patients and 10 to 200 positive ones, with one or several images each,
and two models with the same AUC and correlated scores. Prints the share of draws with p < 0.05 from
the t distribution, as the tables have it, and from the normal distribution. Then the same for 14
findings at once: the share of draws in which any is called different after Holm's correction.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import sys
from pathlib import Path

import numpy as np
from scipy.stats import norm

sys.path.append(str(Path(__file__).resolve().parents[1]))  # the package need not be installed

from cohorts import Scenario, draw, single

from agcnn_jax.metrics.auc_table import auc_table
from agcnn_jax.metrics.influence import Influence
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


def tests(scenario: Scenario, seed: int) -> list[PairedTest]:
    """Draw a cohort, and test the difference of each finding."""
    cohort = draw(scenario, np.random.default_rng(seed))
    names = tuple(map(str, range(len(scenario.aucs))))
    results = auc_table(
        cohort.labels, cohort.scores, labels=names, findings=names, patient_ids=cohort.patient
    )
    first, second = results["first"], results["second"]
    change = first.mean.influence.minus(second.mean.influence)
    found = []
    for i, name in enumerate(names):
        one = Influence(change.values[:, i : i + 1], change.weights[:, i : i + 1])
        found.append(paired_test((first.auc[name] or 0) - (second.auc[name] or 0), one))
    return found


def sizes(scenario: Scenario, draws: int) -> tuple[float, float]:
    """Return the shares of draws with any rejection, by t and by the normal distribution."""
    rejected = np.zeros(2)
    for seed in range(draws):
        found = tests(scenario, seed)
        normal = [
            None if one.error is None else float(2 * norm.sf(abs(one.difference) / one.error))
            for one in found
        ]
        for which, p_values in enumerate(([one.p for one in found], normal)):
            rejected[which] += any(p is not None and p < LEVEL for p in holm(p_values))
    by_t, by_normal = (rejected / draws).tolist()
    return by_t, by_normal


def main() -> None:
    """Print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=10_000, help="cohorts per scenario")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, help="file for the tables")
    options = parser.parse_args()
    scenarios = [make(positives) for make in KINDS.values() for positives in POSITIVES]
    with multiprocessing.Pool(options.processes) as pool:
        job = functools.partial(sizes, draws=options.draws)
        found = pool.map(job, [*scenarios, *FAMILIES.values()], 1)
    header = " | ".join(f"{positives} positive patients" for positives in POSITIVES)
    lines = [
        f"Share of {options.draws:,} draws in which a true hypothesis is rejected at 0.05: by t,",
        "and in brackets by the normal distribution.",
        "",
        f"| models | {header} |",
        f"| --- |{' ---: |' * len(POSITIVES)}",
    ]
    cells = [f"{by_t:.3f} ({by_normal:.3f})" for by_t, by_normal in found]
    for i, name in enumerate(KINDS):
        row = cells[i * len(POSITIVES) : (i + 1) * len(POSITIVES)]
        lines.append(f"| {name} | {' | '.join(row)} |")
    lines += ["", "| any of several, after Holm's correction | |", "| --- | ---: |"]
    for name, cell in zip(FAMILIES, cells[len(scenarios) :], strict=True):
        lines.append(f"| {name} | {cell} |")
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
