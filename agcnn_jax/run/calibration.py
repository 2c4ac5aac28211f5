"""What validation images say about a model: thresholds, Platt's two numbers, and its features.

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

from agcnn_jax.metrics.auc_table import FEW_PATIENTS
from agcnn_jax.metrics.calibration import Line, finite_logits, fit_line
from agcnn_jax.metrics.feature_distance import FeatureStatistics
from agcnn_jax.metrics.finding_metrics import enough_patients
from agcnn_jax.metrics.operating_points import RULES, choose_thresholds
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.storage import exists, read_json, write_json

FILES = {"centre": "calibration.json", "ten": "calibration_ten_crops.json"}
"""The file in a workdir for each way to crop the images, see `config.eval.crops`."""

VERSION = 2


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
        images: number of validation images.
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
    """Choose thresholds and fit Platt's numbers on validation images.

    Args:
        label_matrix: 0 or 1, `[N, C]`.
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
            label: Choice(
                fit_line(label_matrix[:, c], np.asarray(finite[:, c], np.float64)),
                choose_thresholds(label_matrix[:, c], scores[:, c]),
            )
            for c, label in enumerate(labels)
            if enough_patients(label_matrix[:, c], patients, FEW_PATIENTS)
        }
    return Calibration(len(label_matrix), len(np.unique(patients)), logits is not None, branches)


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
        UserError: if the file cannot be read.
    """
    path = workdir / FILES[crops]
    if not exists(path):
        return None
    return calibration_of(read_json(path, "delete it"), weights, str(path))


def calibration_of(
    record: Mapping[str, Any], weights: Mapping[str, str], path: str
) -> Calibration | None:
    """Read the content of `calibration.json`; None if it is not of these weights.

    Raises:
        UserError: if it is damaged; names the file by `path`.
    """
    if (record.get("version"), record.get("weights")) != (VERSION, dict(weights)):
        return None
    try:
        branches = {
            branch: {label: _from_json(choice) for label, choice in choices.items()}
            for branch, choices in record["branches"].items()
        }
        features = record["features"] and _features_from_json(record["features"])
        return Calibration(record["images"], record["patients"], True, branches, features)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError(f"{path} is damaged; delete it") from None


def _to_json(choice: Choice) -> dict[str, Any]:
    thresholds = {
        rule: None if value is None else {"logit": value, "probability": float(expit(value))}
        for rule, value in choice.thresholds.items()
    }
    return {"platt": choice.platt and choice.platt._asdict(), "thresholds": thresholds}


def _from_json(value: Mapping[str, Any]) -> Choice:
    thresholds = {rule: value["thresholds"][rule] for rule in RULES}
    return Choice(
        value["platt"] and Line(**value["platt"]),
        {rule: one and one["logit"] for rule, one in thresholds.items()},
    )


def _features_to_json(features: FeatureStatistics) -> dict[str, Any]:
    """Write arrays as base64: as digits, those of 2,048 features would fill megabytes."""
    return {
        name: {
            "shape": value.shape,
            "float32": base64.b64encode(value.astype("<f4").tobytes()).decode(),
        }
        if isinstance(value, np.ndarray)
        else value
        for name, value in vars(features).items()
    }


def _features_from_json(record: Mapping[str, Any]) -> FeatureStatistics:
    values: dict[str, Any] = {
        name: np.frombuffer(base64.b64decode(value["float32"]), "<f4").reshape(value["shape"])
        if isinstance(value, dict)
        else float(value)
        for name, value in record.items()
    }
    return FeatureStatistics(**values)
