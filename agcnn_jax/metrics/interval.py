"""Confidence intervals, on the scales on which errors are symmetric."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit, stdtrit

LEVEL = 0.95


class Interval(NamedTuple):
    """A confidence interval; both ends are on the scale of what it is of."""

    low: float
    high: float


class Estimate(NamedTuple):
    """A measure with its interval over patients; None where either is not known."""

    value: float | None
    interval: Interval | None


NO_ESTIMATE = Estimate(None, None)


def t_quantile(degrees: float, level: float = LEVEL) -> float:
    """Return the quantile of the t distribution for a two-sided interval of the given coverage."""
    return float(stdtrit(degrees, (1 + level) / 2))


def logit_interval(value: float, reach: float | np.ndarray) -> Interval | None:
    """Return the interval within (0, 1) that is symmetric on the logit scale.

    Args:
        value: the estimate.
        reach: half the width on the value's own scale, where the value is (delta method).

    Returns:
        The interval; None where nothing varies, or the value is 0 or 1.
    """
    if not reach > 0 or not 0 < value < 1:
        return None
    middle, far = logit(value), reach / (value * (1 - value))
    return Interval(float(expit(middle - far)), float(expit(middle + far)))


def difference_within(value: float, reach: float) -> Interval:
    """Return the symmetric interval of a difference of two values within 0..1."""
    return Interval(max(-1.0, value - reach), min(1.0, value + reach))
