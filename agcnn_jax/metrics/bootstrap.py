"""Bootstrap over patients, the units that are independent of one another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, stdtrit

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


def percentile_interval(
    samples: np.ndarray, level: float = LEVEL, patients: float = np.inf
) -> Interval | None:
    """Return the central part of resampled values `[R]` that are not NaN; None if all are.

    The part is `level`, enlarged for n patients, since a bootstrap varies by a factor of
    sqrt((n - 1) / n) too little, and does not know that it estimates that variation (Hesterberg
    2015, Am. Stat. 69:371: expanded percentile interval).

    Args:
        samples: `[R]`.
        level: coverage of the interval.
        patients: n, above 1, such as from `effective_patients`.
    """
    samples = samples[~np.isnan(samples)]
    if not len(samples):
        return None
    tail = (1 - level) / 2
    if np.isfinite(patients):
        tail = ndtr(np.sqrt(patients / (patients - 1)) * stdtrit(patients - 1, tail))
    low, high = np.quantile(samples, [tail, 1 - tail])
    return Interval(float(low), float(high))


def effective_patients(patients: np.ndarray) -> float:
    """Compute the number of patients with equally many images that would vary as these do.

    Args:
        patients: int `[N]`, the patient of each image, N at least 1.

    Returns:
        Kish's effective number, between 1 and the number of patients.
    """
    images = np.bincount(patients)
    return float(images.sum() ** 2 / (images**2).sum())
