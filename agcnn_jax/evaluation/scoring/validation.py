"""What a model's validation images choose: thresholds, Platt's numbers, the spread of features."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from agcnn_jax.config.saved import same
from agcnn_jax.evaluation.scoring.scored import ScoredImages
from agcnn_jax.metrics.feature_distance import fit_features
from agcnn_jax.models.agcnn import Variables
from agcnn_jax.run.calibration import Calibration, calibrate, read_calibration, write_calibration
from agcnn_jax.run.lineage import Lineage
from agcnn_jax.run.run import Run
from agcnn_jax.run.stage_results import digests
from agcnn_jax.runtime.processes import from_primary, is_primary, sync_call
from agcnn_jax.runtime.storage import read_json

_STORED, _PREDICT = "stored", "predict"
SAME_IMAGES = "these are the scored images, so the results at thresholds flatter the model"
OTHER_SPLIT = "they are those of the run's own split, and some may be scored here"
NO_THRESHOLDS = "thresholds come from the run's own split, which has not been evaluated"


class Validated(NamedTuple):
    """What validation images chose, or None; and the reason why not, or a caution, or ""."""

    calibration: Calibration | None
    note: str


NOT_VALIDATED = Validated(None, "no predictions of validation images were given")


def validate(
    run: Run,
    variables: Variables,
    seen: Lineage,
    *,
    is_run: bool,
    scored: ScoredImages,
    split: str,
    predicted: Callable[[np.ndarray], ScoredImages],
) -> Validated:
    """Choose thresholds on the validation images, or read what a run has stored.

    Every process calls this. Only the primary stores a run's choice and returns it.

    Args:
        run: of the evaluation, whose data and split may differ from the run's.
        variables: of the model.
        seen: what it was trained on.
        is_run: the run's workdir is a run's, which keeps its choice.
        scored: the images that the evaluation scores.
        split: their subset.
        predicted: predicts records, int64 `[N]`, and returns them with their labels and pooled
            features.
    """
    weights = digests(variables, variables["params"])
    workdir, crops = run.workdir, run.config.eval.crops
    chosen_on = run.split.validation

    def plan() -> tuple[str, str]:
        own = not is_run or same(run.data_summary, read_json(workdir / "data.json"))
        stored = is_run and read_calibration(workdir, weights, crops) is not None
        if not own:
            return (_STORED, OTHER_SPLIT) if stored else (NO_THRESHOLDS, "")
        if split == "validation":
            caution = SAME_IMAGES
        else:
            caution = shared_patients(run.records.patient_ids[chosen_on], scored)
        return _STORED if stored else _unseen(run, seen) or _PREDICT, caution

    todo, caution = from_primary(plan)
    if todo not in (_STORED, _PREDICT):
        return Validated(None, todo)
    images = scored
    if todo == _PREDICT and split != "validation":
        images = predicted(chosen_on)

    def choose() -> Calibration | None:
        if not is_primary():
            return None
        if todo == _STORED:
            return read_calibration(workdir, weights, crops)
        chosen = calibration_of(images)
        if is_run:
            if images.pooled is not None:
                features = fit_features(images.pooled, np.asarray(images.patient_ids))
                chosen = dataclasses.replace(chosen, features=features)
            write_calibration(workdir, chosen, weights, crops)
        return chosen

    return Validated(sync_call(choose), caution)


def _unseen(run: Run, seen: Lineage) -> str:
    """Say why the validation images cannot choose thresholds; "" if they can."""
    records, chosen = run.records, run.split.validation
    if not len(chosen):
        return "the split has no validation images"
    names, patients = records.image_ids[chosen].tolist(), records.patient_ids[chosen].tolist()
    trained = seen.overlap(records.collection, names, patients).images
    return f"{trained:,} of the validation images were trained on" if trained else ""


def calibration_of(scored: ScoredImages, on_logits: bool = True) -> Calibration:
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


def shared_patients(chosen_on: Sequence[Any] | np.ndarray, scored: ScoredImages) -> str:
    """Say how many patients of the validation images are scored too; "" if none is."""
    count = len(set(chosen_on) & set(scored.patient_ids))
    return f"{count:,} of these patients are scored too" if count else ""
