"""Whether two models rank the same images differently: DeLong's test for clustered data.

DeLong et al. (1988) compare the AUCs of two models on one set of images, each image independent of
the others. Obuchowski (1997) extends the test to clusters, here the images of one patient: the
sums of a patient's placements take the place of the placements of images. With one image a patient
both are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import norm

from agcnn_jax.metrics.influence import Influence


class PairedTest(NamedTuple):
    """The difference of two AUCs, its standard error, and the two-sided p value that it is 0.

    `error` and `p` are None where fewer than two patients are positive or fewer than two negative;
    `p` is also None where both models rank all images alike, so that nothing varies.
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
        The test, by Obuchowski's variance (1997, equations 5 and 7) and the normal distribution.
    """
    variance = clustered_variance(influence)
    if variance is None:
        return PairedTest(difference, None, None)
    error = float(np.sqrt(max(variance, 0.0)))
    # Two models that rank alike differ by rounding only.
    if error < 1e-12:
        return PairedTest(difference, error, None)
    return PairedTest(difference, error, float(2 * norm.sf(abs(difference) / error)))


def clustered_variance(influence: Influence) -> float | None:
    """Compute Obuchowski's variance of one AUC, or of a difference.

    Args:
        influence: of K patients, `[2, 1, K]`.

    Returns:
        The variance; None if one side has fewer than two patients.
    """
    positive, negative = influence.values[:, 0]
    with_positive, with_negative = (influence.weights[:, 0] > 0).sum(axis=1)
    patients = len(positive)
    if min(with_positive, with_negative) < 2:
        return None
    own = (
        with_positive / (with_positive - 1) * (positive**2).sum()
        + with_negative / (with_negative - 1) * (negative**2).sum()
    )
    # Patients with images on both sides tie the two sides together.
    shared = 2 * patients / (patients - 1) * (positive * negative).sum()
    return float(own + shared)


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
