"""Calibration of a model on validation images: thresholds, Platt's numbers, spread of features.

A run keeps them in `calibration.json`, with the digests of the weights that made the predictions,
so that thresholds never meet the predictions of other weights.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from scipy.special import expit

from agcnn_jax.config import kinds
from agcnn_jax.config.kinds import ANY, NUMBER, OBJECT, WHOLE, check_entries
from agcnn_jax.metrics.auc_table import FEW_PATIENTS
from agcnn_jax.metrics.calibration import Line, finite_logits, fit_line
from agcnn_jax.metrics.feature_distance import FeatureStatistics
from agcnn_jax.metrics.finding_metrics import enough_patients
from agcnn_jax.metrics.known_labels import known_rows
from agcnn_jax.metrics.operating_points import RULES, choose_thresholds
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.storage import exists, read_json, write_json

FILES = {"centre": "calibration.json", "ten": "calibration_ten_crops.json"}
"""The file in a workdir for each way to crop the images, see `config.eval.crops`."""

VERSION = 2

AGAIN = "delete it and run eval.py again, which writes it anew"

_ROUNDING = 1e-6
_ARRAYS = ("mean", "components", "variances")


@dataclasses.dataclass(frozen=True)
class Choice:
    """What validation images choose for one finding and branch.

    Attributes:
        platt: the calibrated probability is `expit(intercept + slope * logit)` (Platt 1999, without
            his smoothing of the labels); None where no likelihood is largest.
        thresholds: for each of `operating_points.RULES`, on the scale that `Calibration.of_logits`
            names; None where no score would do.
    """

    platt: Line | None
    thresholds: Mapping[str, float | None]


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What validation images choose for a model.

    Attributes:
        images: number of validation images, with or without known labels.
        patients: number of their patients.
        of_logits: thresholds are logits; otherwise probabilities.
        branches: per branch or file and label, the choice; labels with fewer than `FEW_PATIENTS`
            positive or negative patients are left out.
        features: how the global branch's pooled features are distributed; None where not known.
    """

    images: int
    patients: int
    of_logits: bool
    branches: Mapping[str, Mapping[str, Choice]]
    features: FeatureStatistics | None = None

    def probability(self, threshold: float) -> float:
        """Return the probability that a threshold stands for, in 0 to 1."""
        return float(expit(threshold)) if self.of_logits else threshold


def calibrate(
    label_matrix: np.ndarray,
    probabilities: Mapping[str, np.ndarray],
    logits: Mapping[str, np.ndarray] | None,
    *,
    labels: Sequence[str],
    patients: np.ndarray,
) -> Calibration:
    """Choose thresholds and fit Platt's numbers on the validation images with a known label.

    Args:
        label_matrix: 0, 1 or `MISSING`, `[N, C]`.
        probabilities: per branch, `[N, C]`.
        logits: the same before the sigmoid; None if only the probabilities are known.
        labels: names of the C columns.
        patients: int `[N]`, the patient of each image.
    """
    branches = {}
    for branch, matrix in probabilities.items():
        scores = matrix if logits is None else logits[branch]
        finite = finite_logits(matrix) if logits is None else scores
        branches[branch] = {
            label: _choose(*known_rows(label_matrix[:, c], finite[:, c], scores[:, c]))
            for c, label in enumerate(labels)
            if enough_patients(label_matrix[:, c], patients, FEW_PATIENTS)
        }
    return Calibration(len(label_matrix), len(np.unique(patients)), logits is not None, branches)


def _choose(labels: np.ndarray, logits: np.ndarray, scores: np.ndarray) -> Choice:
    line = fit_line(labels, np.asarray(logits, np.float64))
    return Choice(line, choose_thresholds(labels, scores))


def write_calibration(
    workdir: epath.Path, calibration: Calibration, weights: Mapping[str, str], crops: str = "centre"
) -> None:
    """Write a run's `calibration.json`.

    Args:
        workdir: of the run.
        calibration: of logits.
        weights: per branch, the digest of its weights.
        crops: how images were cropped, a key of `FILES`.
    """
    branches = {
        branch: {label: _to_json(choice) for label, choice in choices.items()}
        for branch, choices in calibration.branches.items()
    }
    record = {
        "version": VERSION,
        "weights": dict(weights),
        "images": calibration.images,
        "patients": calibration.patients,
        "branches": branches,
        "features": calibration.features and _features_to_json(calibration.features),
    }
    write_json(workdir / FILES[crops], record)


def read_calibration(
    workdir: epath.Path, weights: Mapping[str, str], crops: str = "centre"
) -> Calibration | None:
    """Read a run's `calibration.json`; None if there is none for these weights.

    Raises:
        UserError: see `calibration_of`.
    """
    path = workdir / FILES[crops]
    if not exists(path):
        return None
    return calibration_of(read_json(path, AGAIN), weights, str(path))


def calibration_of(
    record: Mapping[str, Any], weights: Mapping[str, str], path: str, remedy: str = AGAIN
) -> Calibration | None:
    """Read the content of `calibration.json`; None if it is not of these weights.

    Raises:
        UserError: if it is damaged, or another version wrote it; names the file by `path`, the
            value and the remedy.
    """
    count = (WHOLE, kinds.at_least(1))
    about = check_entries(record, {"version": count, "weights": (OBJECT, ANY)}, path, remedy)
    if about["version"] != VERSION:
        raise UserError(
            f"{path} is of version {about['version']}, but this program reads {VERSION}; use "
            f"the agcnn-jax that wrote it, or {remedy}"
        )
    if about["weights"] != dict(weights):
        return None
    body = {"images": count, "patients": count, "branches": (OBJECT, ANY)}
    body["features"] = (kinds.or_none(OBJECT), ANY)
    values = check_entries(record, body, path, remedy)
    branches = dict.fromkeys(weights, (OBJECT, ANY))
    values["branches"] = {
        branch: {
            label: _choice_of(choice, f"{path}, {branch}, {label}", remedy)
            for label, choice in choices.items()
        }
        for branch, choices in check_entries(values["branches"], branches, path, remedy).items()
    }
    if values["features"] is not None:
        values["features"] = _features_of(values["features"], f"{path}, features", remedy)
    return Calibration(of_logits=True, **values)


def _to_json(choice: Choice) -> dict[str, Any]:
    thresholds = {
        rule: None if value is None else {"logit": value, "probability": float(expit(value))}
        for rule, value in choice.thresholds.items()
    }
    return {"platt": choice.platt and choice.platt._asdict(), "thresholds": thresholds}


def _choice_of(record: Any, where: str, remedy: str) -> Choice:
    entries = {"thresholds": (OBJECT, ANY), "platt": (kinds.or_none(OBJECT), ANY)}
    values = check_entries(record, entries, where, remedy)
    line = values["platt"]
    if line is not None:
        numbers = dict.fromkeys(Line._fields, (NUMBER, kinds.FINITE))
        line = Line(**check_entries(line, numbers, f"{where}, platt", remedy))
    rules = dict.fromkeys(RULES, (kinds.or_none(OBJECT), ANY))
    thresholds = {
        rule: None if scales is None else _logit(scales, f"{where}, {rule}", remedy)
        for rule, scales in check_entries(values["thresholds"], rules, where, remedy).items()
    }
    return Choice(line, thresholds)


def _logit(threshold: Any, where: str, remedy: str) -> float:
    """Read a threshold, whose probability is there for people, and must be the logit's."""
    scales = {"logit": (NUMBER, kinds.FINITE), "probability": (NUMBER, kinds.between(0, 1))}
    logit, probability = check_entries(threshold, scales, where, remedy).values()
    if abs(expit(logit) - probability) > _ROUNDING:
        raise UserError(
            f"{where}: probability is {probability:g}, but that of logit {logit} is "
            f"{expit(logit):.6g}; {remedy}"
        )
    return float(logit)


def _features_to_json(features: FeatureStatistics) -> dict[str, Any]:
    """Write arrays as base64: as digits, those of 2,048 features would fill megabytes."""
    values = dict(vars(features))
    for name in _ARRAYS:
        text = base64.b64encode(values[name].astype("<f4").tobytes()).decode()
        values[name] = {"shape": values[name].shape, "float32": text}
    return values


def _features_of(record: Any, where: str, remedy: str) -> FeatureStatistics:
    entries = dict.fromkeys(_ARRAYS, (OBJECT, ANY))
    entries |= dict.fromkeys(("noise", "threshold"), (NUMBER, kinds.POSITIVE))
    values = check_entries(record, entries, where, remedy)
    for name in _ARRAYS:
        try:
            content = np.frombuffer(base64.b64decode(values[name]["float32"]), "<f4")
            values[name] = content.reshape(values[name]["shape"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(f"{where}: {name} is no array ({error}); {remedy}") from None
    mean, components, variances = (values[name] for name in _ARRAYS)
    fit = components.ndim == 2 and (*variances.shape, *mean.shape) == components.shape
    finite = all(np.isfinite(values[name]).all() for name in _ARRAYS)
    if not (fit and finite and (variances > 0).all()):
        raise UserError(f"{where}: the arrays are not those of a distribution; {remedy}")
    return FeatureStatistics(**values)
