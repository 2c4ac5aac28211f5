"""How often the intervals of one finding's AUC and operating point contain the true value.

    python benchmarks/coverage_of_findings.py [--draws 1000] [--out FILE]

Draws cohorts of 400 patients with several images each, at least 50 of them with the finding, from a
distribution whose AUC, sensitivity, specificity and PPV are known. Computes each interval over
patients, as the tables do, and as if every image were another patient's. Prints the percentage of
draws whose interval contains the truth, and the mean width.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import norm

from agcnn_jax.metrics.auc_table import auc_table
from agcnn_jax.metrics.bootstrap import RESAMPLES, Interval
from agcnn_jax.metrics.operating_points import operating_point

PATIENTS = 400
SICK = 0.2  # share of the patients
SHOWN = 0.6  # share of a sick patient's later images that show the finding; the first always does
LEAST = 50  # positive patients of a cohort
# Each: correlation of scores of one patient, and the AUC of images of different patients.
SCENARIOS = {
    "images very alike": (0.6, 0.85),
    "images alike": (0.45, 0.8),
    "images less alike": (0.3, 0.75),
}


class Cohort(NamedTuple):
    """Labels, scores and patients, each `[N]`."""

    labels: np.ndarray
    scores: np.ndarray
    patients: np.ndarray


def draw(alike: float, auc: float, patients: int, generator: np.random.Generator) -> Cohort:
    """Draw independent patients with 1 to 12 images, 2.8 on average."""
    images = np.minimum(generator.geometric(0.35, patients), 12)
    patient = np.repeat(np.arange(patients), images)
    shown = generator.random(len(patient)) < SHOWN
    shown[np.cumsum(images) - images] = True
    labels = (shown & (generator.random(patients) < SICK)[patient]).astype(np.uint8)
    noise = np.sqrt(alike) * generator.normal(size=patients)[patient]
    noise += np.sqrt(1 - alike) * generator.normal(size=len(patient))
    return Cohort(labels, noise + labels * np.sqrt(2) * norm.ppf(auc), patient)


def truths(auc: float, threshold: float) -> dict[str, float]:
    """Compute the true values; PPV needs the share of positive images, from many patients."""
    sensitivity = norm.sf(threshold - np.sqrt(2) * norm.ppf(auc))
    specificity = norm.cdf(threshold)
    share = draw(0.5, auc, 1_000_000, np.random.default_rng(0)).labels.mean()
    true, false = share * sensitivity, (1 - share) * (1 - specificity)
    return {
        "AUC, bootstrap": auc,
        "AUC, influence": auc,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "PPV": true / (true + false),
    }


def intervals(
    cohort: Cohort, threshold: float, patients: np.ndarray, resamples: int
) -> dict[str, Interval | None]:
    """Compute each interval, with `patients` `[N]` as the independent units."""
    labels, scores, _ = cohort
    table = auc_table(
        labels[:, None],
        {"": scores[:, None]},
        labels=("finding",),
        findings=("finding",),
        patient_ids=patients,
        resamples=resamples,
    )[""]
    point = operating_point(labels, scores, threshold, patients)
    return {
        "AUC, bootstrap": table.intervals["finding"],
        "AUC, influence": table.mean.interval,
        "sensitivity": point.sensitivity.interval,
        "specificity": point.specificity.interval,
        "PPV": point.ppv.interval,
    }


def coverage(
    alike: float, auc: float, draws: int, resamples: int = RESAMPLES
) -> dict[str, list[tuple[float, float]]]:
    """Measure the coverage and the width of each interval, over patients and over images."""
    threshold = float(norm.ppf(0.9))
    true = truths(auc, threshold)
    found: dict[str, list[list[tuple[bool, float]]]] = {name: [[], []] for name in true}
    generator = np.random.default_rng(1)
    done = 0
    while done < draws:
        cohort = draw(alike, auc, PATIENTS, generator)
        if len(np.unique(cohort.patients[cohort.labels == 1])) < LEAST:
            continue
        done += 1
        for i, units in enumerate((cohort.patients, np.arange(len(cohort.labels)))):
            for name, interval in intervals(cohort, threshold, units, resamples).items():
                assert interval is not None
                low, high = interval
                found[name][i].append((low <= true[name] <= high, high - low))
    return {
        name: [tuple(np.mean(values, axis=0).tolist()) for values in both]
        for name, both in found.items()
    }


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=1000, help="cohorts per scenario")
    parser.add_argument("--out", type=Path, help="file for the table")
    options = parser.parse_args()
    lines = [
        f"Intervals of 95 %, {options.draws:,} draws: covered (%), mean width.",
        "",
        "| cohort | of | over patients | over images |",
        "| --- | --- | ---: | ---: |",
    ]
    for scenario, (alike, auc) in SCENARIOS.items():
        for name, both in coverage(alike, auc, options.draws).items():
            cells = (f"{100 * covered:.1f}, {width:.3f}" for covered, width in both)
            lines.append(f"| {scenario} | {name} | {' | '.join(cells)} |")
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
