"""The AUC table of any program's predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from agcnn_jax.data.labels import LABELS, NO_FINDING
from agcnn_jax.data.marker import read_marker
from agcnn_jax.evaluation.cohort import describe_cohort
from agcnn_jax.evaluation.label_table import read_labels, refuse_misspelt
from agcnn_jax.evaluation.predictions import read_predictions
from agcnn_jax.evaluation.tables import Table, build_table
from agcnn_jax.metrics.auc_table import auc_table
from agcnn_jax.metrics.bootstrap import RESAMPLES
from agcnn_jax.runtime.errors import UserError

DIGITS = 6


def evaluate_predictions(
    predictions_path: str | Path, labels_path: str | Path, resamples: int = RESAMPLES
) -> Table:
    """Score a file of predictions.

    Args:
        predictions_path: see `read_predictions`.
        labels_path: see `read_labels`; may hold images without predictions.
        resamples: of the bootstrap over patients.

    Returns:
        The table, with AUCs to 6 decimals; print it with `table_text.as_text`.

    Raises:
        UserError: if a file is unusable, a label is unknown, or an image has no labels.
    """
    labels = read_labels(labels_path)
    predictions = read_predictions(predictions_path, {*LABELS, *labels.lines})
    refuse_misspelt(labels, labels_path, predictions.labels)
    unknown = [name for name in predictions.image_ids if name not in labels.of_image]
    if unknown:
        raise UserError(
            f"{predictions_path}: {len(unknown):,} of {len(predictions.image_ids):,} images, the "
            f"first {unknown[0]!r}, are not in {labels_path}; give the labels of the same images"
        )
    of_image = [labels.of_image[name] for name in predictions.image_ids]
    matrix = np.array([[name in one for name in predictions.labels] for one in of_image], np.uint8)
    patients = [labels.patient[name] for name in predictions.image_ids]
    results = auc_table(
        matrix,
        {"predictions": predictions.probabilities},
        labels=predictions.labels,
        findings=tuple(name for name in predictions.labels if name != NO_FINDING),
        patient_ids=patients,
        resamples=resamples,
    )
    # The phantoms' marker beside the labels makes the table say that they are synthetic.
    provenance = f"{Path(predictions_path).name} on {Path(labels_path).name}"
    if marker := read_marker(Path(labels_path).parent):
        provenance += f", {marker['provenance']}"
    cohort = describe_cohort(
        matrix,
        predictions.labels,
        patients,
        split=None,
        protocol=None,
        backbone=None,
        provenance=provenance,
        overlap=None,
    )
    return build_table(results, cohort, DIGITS)
