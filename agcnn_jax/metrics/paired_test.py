"""DeLong's test for clustered data: do two models rank the same images differently?

DeLong et al. (1988) compare the AUCs of two models on one set of images, each image independent of
the others. Obuchowski (1997) extends the test to clusters, here the images of one patient: the
sums of a patient's placements take the place of the placements of images. With one image a patient
both have the same variance. Both use the normal distribution, which rejects too often if few
patients are positive; here p comes from the t distribution of the interval (see `influence`), so
that p is below 0.05 exactly where the interval of 95 % excludes 0. `benchmarks/size_of_tests.py`
measures how often true hypotheses are rejected.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtr

from agcnn_jax.metrics.auc_table import FEW_PATIENTS
from agcnn_jax.metrics.influence import UNBIASED, Influence, estimate_variance


class PairedTest(NamedTuple):
    """The difference of two AUCs, its standard error, and the two-sided p value that it is 0.

    `error` is None where fewer than two patients are positive or fewer than two negative, or both
    models rank all images alike, so that nothing varies. `p` is also None where fewer than
    `FEW_PATIENTS` patients are positive or as few negative.
    """

    difference: float
    error: float | None
    p: float | None


def paired_test(difference: float, influence: Influence) -> PairedTest:
    """Test the difference of two AUCs of the same images.

    Args:
        difference: of the AUCs.
        influence: of K patients on it, `[2, 1, K]`, from `Influence.minus`.

    Returns:
        The test, by the variance over patients and the t distribution.
    """
    estimate = estimate_variance(influence, UNBIASED)
    if estimate is None:
        return PairedTest(difference, None, None)
    variance, degrees = estimate
    error = float(np.sqrt(variance))
    if (influence.weights > 0).sum(axis=-1).min() < FEW_PATIENTS:
        return PairedTest(difference, error, None)
    return PairedTest(difference, error, float(2 * stdtr(degrees, -abs(difference) / error)))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust p values for testing several hypotheses at once (Holm 1979).

    Args:
        p_values: None for a hypothesis that was not tested, which counts neither here nor there.

    Returns:
        Adjusted p values in the same order, at most 1.
    """
    tested = [i for i, p in enumerate(p_values) if p is not None]
    tested.sort(key=lambda i: p_values[i])  # type: ignore[arg-type, return-value]
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for place, i in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - place) * p_values[i]))  # type: ignore[operator]
        adjusted[i] = largest
    return adjusted
