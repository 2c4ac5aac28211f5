"""Confidence intervals."""

from __future__ import annotations

from typing import NamedTuple

LEVEL = 0.95


class Interval(NamedTuple):
    """A confidence interval; both ends are on the scale of what it is of."""

    low: float
    high: float
