"""Writes the files of an evaluation: scores, tables, predictions, boxes, figures and the report."""

from __future__ import annotations

import os

import numpy as np
from etils import epath

from agcnn_jax.data.tables.csv_table import IMAGE_COLUMN
from agcnn_jax.data.text import csv_text
from agcnn_jax.evaluation.auc import files as auc
from agcnn_jax.evaluation.figures import files as figures
from agcnn_jax.evaluation.files.predictions import predictions_csv
from agcnn_jax.evaluation.findings import files as findings
from agcnn_jax.evaluation.localisation import files as localisation
from agcnn_jax.evaluation.report import report
from agcnn_jax.evaluation.results_directory import replace_directory
from agcnn_jax.evaluation.scoring.evaluation import Evaluation
from agcnn_jax.run import lineage


def write_evaluation(evaluation: Evaluation, directory: str | os.PathLike[str]) -> None:
    """Write all files of an evaluation, in place of those that a folder holds.

    Args:
        evaluation: with its measures.
        directory: `<workdir>/eval/<split>` or any folder, on a disk or in an object store; see
            `replace_directory`.

    Raises:
        UserError: if the folder cannot be written.
    """
    pictures = figures.files(evaluation)
    files = {
        **auc.files(evaluation),
        **findings.files(evaluation),
        **localisation.files(evaluation),
        **_predictions(evaluation),
        **pictures,
        **report.files(evaluation, pictures),
    }
    with replace_directory(directory) as folder:
        for name, data in files.items():
            (folder / name).write_bytes(data)
        if evaluation.model:
            lineage.write(epath.Path(folder), evaluation.model.lineage, None)


def _predictions(evaluation: Evaluation) -> dict[str, bytes]:
    """Return a model's own predictions and boxes; those that came from a file are not copied."""
    scored, texts = evaluation.scored, {}
    if evaluation.model is None:
        return {}
    for branch, probabilities in scored.probabilities.items():
        texts[f"predictions_{branch}.csv"] = predictions_csv(
            scored.image_ids, scored.labels, probabilities, scored.logits.get(branch)
        )
    if scored.boxes is not None:
        rows = np.asarray(scored.boxes).tolist()
        texts["boxes.csv"] = csv_text(
            [IMAGE_COLUMN, "xmin", "ymin", "xmax", "ymax"],
            ([name, *box] for name, box in zip(scored.image_ids, rows, strict=True)),
        )
    return {name: text.encode() for name, text in texts.items()}
