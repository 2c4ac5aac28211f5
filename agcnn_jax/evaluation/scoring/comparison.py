"""Two models on the same images: each finding's difference, tested, and the mean's."""

from __future__ import annotations

from typing import NamedTuple

from agcnn_jax.metrics.auc_table import BranchAUC, paired_difference
from agcnn_jax.metrics.influence import difference_interval
from agcnn_jax.metrics.interval import Interval
from agcnn_jax.metrics.paired_test import holm, paired_test


class Difference(NamedTuple):
    """One model's AUC minus another's, with its interval and p value; None where not known."""

    name: str
    difference: float | None
    interval: Interval | None
    p: float | None = None
    holm: float | None = None


def compare_models(first: BranchAUC, second: BranchAUC) -> list[Difference]:
    """Compare two results of one `auc_table` call, finding by finding, and their means.

    Returns:
        First minus second: the findings in their order, then the mean over those with an AUC.
    """
    tested = {}
    for i, finding in enumerate(first.mean.findings):
        influence = first.mean.influence.of([i]).minus(second.mean.influence.of([i]))
        difference = (first.auc[finding] or 0.0) - (second.auc[finding] or 0.0)
        tested[finding] = influence, paired_test(difference, influence)
    adjusted = dict(zip(tested, holm([test.p for _, test in tested.values()]), strict=True))
    rows = []
    for finding in first.findings:
        if finding not in tested:
            rows.append(Difference(finding, None, None))
            continue
        influence, test = tested[finding]
        interval = difference_interval(test.difference, influence)
        rows.append(Difference(finding, test.difference, interval, test.p, adjusted[finding]))
    if (mean := paired_difference(first.mean, second.mean)) is not None:
        rows.append(Difference("Mean", *mean))
    return rows
