"""Calibration on validation images: thresholds, Platt's numbers, the spread of features."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from agcnn_jax.config.saved import same
from agcnn_jax.evaluation.scoring.scored import ScoredImages
from agcnn_jax.metrics.feature_distance import fit_features
from agcnn_jax.run.calibration import Calibration, calibrate, read_calibration, write_calibration
from agcnn_jax.run.lineage import Lineage
from agcnn_jax.run.run import Run
from agcnn_jax.runtime.storage import read_json

SAME_IMAGES = "these are the scored images, so the results at thresholds flatter the model"
EXTERNAL = "they are the run's own; nothing was fitted on the scored images"
OTHER_SPLIT = "they are those of the run's own split, and some may be scored here"
NOT_EVALUATED = (
    "they are the run's own, from its own validation images, which have not been evaluated; run "
    "eval.py on the run's own data first (without --config.data.dir), then repeat this"
)
NO_THRESHOLDS = "thresholds come from the run's own split, which has not been evaluated"


class Validated(NamedTuple):
    """What validation images chose, or None; and the reason why not, or a caution, or ""."""

    calibration: Calibration | None
    note: str


NOT_VALIDATED = Validated(None, "no predictions of validation images were given")


class Plan(NamedTuple):
    """Where thresholds come from.

    Attributes:
        source: "stored" with a run, to be "predicted" from validation images, or "none".
        note: the caution, or the reason why there are none.
    """

    source: str
    note: str


def plan_validation(
    run: Run,
    trained: Lineage,
    scored: ScoredImages,
    split: str,
    weights: Mapping[str, str],
    is_run: bool,
    external: bool = False,
) -> Plan:
    """Decide where the thresholds of an evaluation come from.

    Args:
        run: of the evaluation, whose data and split may differ from those of the run in its
            workdir.
        trained: what the model was trained on.
        scored: the images that the evaluation scores.
        split: their subset.
        weights: per branch, the digest of the model's weights.
        is_run: the workdir is a run's, which keeps its choice.
        external: the data are of another collection than the run's.
    """
    records, validation = run.records, run.split.validation
    stored = is_run and read_calibration(run.workdir, weights, run.config.eval.crops) is not None
    if external:
        return Plan("stored", EXTERNAL) if stored else Plan("none", NOT_EVALUATED)
    if is_run and not same(run.data_summary, read_json(run.workdir / "data.json")):
        return Plan("stored", OTHER_SPLIT) if stored else Plan("none", NO_THRESHOLDS)
    caution = SAME_IMAGES
    if split != "validation":
        caution = shared_patients(records.patient_ids[validation], scored)
    if stored:
        return Plan("stored", caution)
    if not len(validation):
        return Plan("none", "the split has no validation images")
    names, patients = records.image_ids[validation], records.patient_ids[validation]
    images = trained.overlap(
        records.collection, names.tolist(), patients.tolist(), synthetic=records.synthetic
    ).images
    if images:
        return Plan("none", f"{images:,} of the validation images were trained on")
    return Plan("predicted", caution)


def validate(
    run: Run,
    weights: Mapping[str, str],
    plan: Plan,
    images: ScoredImages | None,
    is_run: bool,
) -> Validated:
    """Read or fit the calibration of an evaluation, as planned; see `plan_validation`.

    Args:
        run: of the evaluation.
        weights: per branch, the digest of the model's weights.
        plan: what to do.
        images: the validation images, if they were predicted.
        is_run: the workdir is a run's, which keeps its choice.
    """
    calibration = None
    if plan.source == "stored":
        calibration = read_calibration(run.workdir, weights, run.config.eval.crops)
    elif plan.source == "predicted" and images is not None:
        calibration = calibrate_run(run, weights, images) if is_run else fit_calibration(images)
    return Validated(calibration, plan.note)


def calibrate_run(run: Run, weights: Mapping[str, str], images: ScoredImages) -> Calibration:
    """Fit a run's calibration on its validation images, and keep it in the workdir."""
    calibration = fit_calibration(images)
    if images.pooled is not None:
        features = fit_features(images.pooled, np.asarray(images.patient_ids))
        calibration = dataclasses.replace(calibration, features=features)
    write_calibration(run.workdir, calibration, weights, run.config.eval.crops)
    return calibration


def fit_calibration(scored: ScoredImages, on_logits: bool = True) -> Calibration:
    """Choose thresholds and Platt's numbers on validation images.

    Args:
        scored: the validation images.
        on_logits: use logits if the images have them.
    """
    _, patients = np.unique(np.asarray(scored.patient_ids), return_inverse=True)
    return calibrate(
        scored.label_matrix,
        scored.probabilities,
        (scored.logits or None) if on_logits else None,
        labels=scored.labels,
        patients=patients,
    )


def shared_patients(validation: Sequence[Any] | np.ndarray, scored: ScoredImages) -> str:
    """Say how many patients of the validation images are scored too; "" if none is."""
    count = len(set(validation) & set(scored.patient_ids))
    return f"{count:,} of these patients are scored too" if count else ""
