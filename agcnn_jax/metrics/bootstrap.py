"""Bootstrap over patients, the units that are independent of one another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95
# A block of int32 weights of 25,000 images takes 3 MB and so stays in the CPU's cache.
_BLOCK = 32


class Interval(NamedTuple):
    """A confidence interval; both ends are AUCs, or differences of AUCs."""

    low: float
    high: float


def patient_resamples(patients: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Draw all patients with replacement, `resamples` times.

    Args:
        patients: number of patients.
        resamples: total number of rows in all blocks.
        seed: of the draws.

    Yields:
        int32 `[B, patients]`: how often each patient is drawn in each of B resamples.
    """
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, _BLOCK):
        rows = min(_BLOCK, resamples - start)
        drawn = generator.integers(0, patients, (rows, patients))
        drawn += np.arange(rows)[:, None] * patients
        counts = np.bincount(drawn.ravel(), minlength=rows * patients)
        yield counts.reshape(rows, patients).astype(np.int32)


def percentile_interval(samples: np.ndarray, level: float = LEVEL) -> Interval | None:
    """Return the central `level` of resampled values `[R]` that are not NaN; None if all are."""
    samples = samples[~np.isnan(samples)]
    if not len(samples):
        return None
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))
