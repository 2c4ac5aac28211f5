"""Power analysis: the width of an interval to expect for the positives at hand.

    python -m agcnn_jax.metrics.power_analysis

Prints a table of the widths of an AUC's interval, by AUC and number of positive patients, for
one image a patient and ten times as many negative patients. The variance is that of exponential
scores (Hanley and McNeil 1982), which is on the safe side: normal scores give narrower intervals,
the more so the higher the AUC (`benchmarks/coverage_of_findings.py`). Several
images a patient narrow the interval a little.
"""

from __future__ import annotations

import numpy as np

from agcnn_jax.metrics.auc_interval import score_interval
from agcnn_jax.metrics.interval import Interval

AUCS = (0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
POSITIVES = (5, 10, 20, 50, 100, 200, 500, 1000)
NEGATIVES = 10  # for each positive patient


def expected_interval(auc: float, positives: int, negatives: int) -> Interval:
    """Return the interval around an AUC whose estimated variance is the expected one.

    Args:
        auc: between 0 and 1.
        positives: number of positive patients, 2 or more, with an image each.
        negatives: number of negative patients, 2 or more, with an image each.
    """
    return score_interval(auc, 1.0, min(positives, negatives) - 1, (positives, negatives))


def table() -> str:
    """Return the table as Markdown."""
    lines = [
        "Width of the 95 % interval of an AUC, with ten negative patients for each positive one.",
        "",
        f"| positive patients | {' | '.join(f'AUC {auc:g}' for auc in AUCS)} |",
        f"| ---: |{' ---: |' * len(AUCS)}",
    ]
    for positives in POSITIVES:
        ends = [expected_interval(auc, positives, NEGATIVES * positives) for auc in AUCS]
        widths = (f"{np.ptp(one):.3f}" for one in ends)
        lines.append(f"| {positives:,} | {' | '.join(widths)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
