"""Shares and means with intervals over patients, whose images resemble one another.

Each is a ratio of sums over patients. A patient's influence on it gives its variance; a share's
interval is then Wilson's for as many independent observations as would have that variance (Franco
et al. 2019, J. Surv. Stat. Methodol. 7:334). Unlike a bootstrap's, it has a width where all
observations agree.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from agcnn_jax.metrics.interval import t_quantile


class Estimates(NamedTuple):
    """Estimates with their intervals; each float64 of one shape, NaN where not known."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def shares(hits: np.ndarray, patients: np.ndarray) -> Estimates:
    """Compute the share of hits among N observations, for any number of criteria at once.

    Where all observations of a criterion agree, every patient counts as one observation.

    Args:
        hits: bool `[N, ...]`, N at least 1.
        patients: `[N]`, the patient of each observation.

    Returns:
        `[...]`, within 0..1. With one patient there are values but no intervals.
    """
    value, variance, count = _ratio(hits, patients)
    quantile = _quantile(count)
    observations = len(hits)
    with np.errstate(divide="ignore", invalid="ignore"):
        design_effect = variance / (value * (1 - value) / (observations - 1))
        effective = observations / np.maximum(design_effect, 1)
    effective = np.where((value == 0) | (value == 1), count, effective)
    shrinkage = 1 + quantile**2 / effective
    centre = (value + quantile**2 / (2 * effective)) / shrinkage
    spread = value * (1 - value) / effective + (quantile / (2 * effective)) ** 2
    reach = quantile * np.sqrt(spread) / shrinkage
    # Rounding must not push the value out of its own interval.
    return Estimates(
        value,
        np.clip(np.minimum(centre - reach, value), 0, 1),
        np.clip(np.maximum(centre + reach, value), 0, 1),
    )


def means(values: np.ndarray, patients: np.ndarray, least: float = -np.inf) -> Estimates:
    """Compute the mean of N observations, for any number of criteria at once.

    Args:
        values: such as counts, or differences of hits; `[N, ...]`, N at least 1.
        patients: `[N]`, the patient of each observation.
        least: what no mean can fall below.

    Returns:
        `[...]`, with intervals by the t distribution; without where nothing varies, or with one
        patient.
    """
    value, variance, count = _ratio(values, patients)
    reach = _quantile(count) * np.sqrt(np.where(variance > 0, variance, np.nan))
    return Estimates(value, np.maximum(value - reach, least), value + reach)


def _ratio(values: np.ndarray, patients: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the mean `[...]` of values `[N, ...]`, its variance, and the number of patients."""
    values = np.asarray(values, np.float64)
    _, patient = np.unique(np.asarray(patients), return_inverse=True)
    count = int(patient.max()) + 1
    mean = values.mean(axis=0)
    influence = np.zeros((count, *values.shape[1:]))
    np.add.at(influence, patient, (values - mean) / len(values))
    correction = count / (count - 1) if count > 1 else np.nan
    return mean, correction * (influence**2).sum(axis=0), count


def _quantile(count: int) -> float:
    return t_quantile(count - 1) if count > 1 else np.nan
