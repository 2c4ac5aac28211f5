"""Predictions of ChestX-ray14's findings against radiologists' labels of the same images.

Majkowska et al. (Radiology 2019) had radiologists label 4,376 images of ChestX-ray14 for four
findings. Their table repeats NIH's columns, so the labels that NIH's program took from reports are
judged by the radiologists as well.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from agcnn_jax.data.collection import NIH, Collection
from agcnn_jax.data.tables.csv_table import CsvTable, read_csv
from agcnn_jax.data.tables.label_table import LabelTable
from agcnn_jax.data.text import plain
from agcnn_jax.evaluation.files.label_table import read_labels, rows_of
from agcnn_jax.evaluation.files.predictions import Predictions
from agcnn_jax.evaluation.scoring.scored import ScoredImages
from agcnn_jax.metrics.auc_table import auc_table
from agcnn_jax.metrics.interval import NO_ESTIMATE, Estimate
from agcnn_jax.metrics.operating_points import share_of
from agcnn_jax.metrics.subgroups import UNKNOWN
from agcnn_jax.runtime.errors import UserError

FINDINGS: dict[str, tuple[str, ...]] = {
    "Fracture": (),
    "Pneumothorax": ("Pneumothorax",),
    "Airspace opacity": (
        "Atelectasis",
        "Consolidation",
        "Edema",
        "Infiltration",
        "Pneumonia",
        "Effusion",
    ),
    "Nodule or mass": ("Nodule", "Mass"),
}
"""The radiologists' findings, and the labels of ChestX-ray14 that each covers."""

SET_COLUMN = "Set Id"
POOLED = "pooled"
"""The name of all sets together."""
_ANSWERS = {"yes": 1, "no": 0}


@dataclasses.dataclass(frozen=True)
class Readings:
    """Radiologists' labels.

    Attributes:
        nih: NIH's labels and the patients of the same images.
        read: per image, 0 or 1 for each of `FINDINGS`, uint8 `[4]`.
        set_of: per image, the set that it belongs to; `UNKNOWN` where the cell is empty.
    """

    nih: LabelTable
    read: dict[str, np.ndarray]
    set_of: dict[str, str]


def read_radiologists(source: str | Path | CsvTable) -> Readings | None:
    """Read the radiologists' table; None if it lacks their four columns.

    Raises:
        UserError: if the table is unusable, an answer is neither YES nor NO, or a set is called
            `POOLED`.
    """
    table = read_csv(source)
    if not set(map(plain, FINDINGS)) <= set(map(plain, table.header)):
        return None
    columns = [table.column(finding) for finding in FINDINGS]
    set_column = table.column(SET_COLUMN)
    names = table.image_ids()
    read, set_of = {}, {}
    for name, (line, row) in zip(names, table.rows, strict=True):
        answers = [_ANSWERS.get(row[column].lower()) for column in columns]
        if None in answers:
            column = columns[answers.index(None)]
            raise UserError(
                f"{table.path}, line {line}, {table.header[column]}: {row[column]!r} is neither "
                f"YES nor NO; correct or delete the row"
            )
        if row[set_column] == POOLED:
            raise UserError(
                f"{table.path}, line {line}, {SET_COLUMN}: {POOLED!r} is what the tables call all "
                f"sets together; rename the set"
            )
        read[name] = np.array(answers, np.uint8)
        set_of[name] = row[set_column] or UNKNOWN
    return Readings(read_labels(table), read, set_of)


def check_nih(path: str | Path, collection: Collection) -> None:
    """Raise `UserError` if a table of readings lies among images of another collection."""
    if collection.name != NIH.name:
        raise UserError(
            f"{path}: radiologists' labels are of {NIH.name}'s images, and {collection.name}'s lie "
            f"beside it; put the table elsewhere, or give a table with the labels of these images"
        )


def covered(labels: tuple[str, ...], values: np.ndarray) -> np.ndarray:
    """Take the largest value of the labels that each of `FINDINGS` covers.

    Args:
        labels: names of the C columns.
        values: `[N, C]`.

    Returns:
        float64 `[N, 4]`; NaN for a finding of whose labels one is missing.
    """
    largest = np.full((len(values), len(FINDINGS)), np.nan)
    for i, parts in enumerate(FINDINGS.values()):
        if parts and set(parts) <= set(labels):
            largest[:, i] = values[:, [labels.index(part) for part in parts]].max(axis=1)
    return largest


@dataclasses.dataclass(frozen=True)
class Agreement:
    """One finding in one set of images.

    Attributes:
        finding: one of `FINDINGS`.
        subset: the set, or `POOLED`.
        images: number of images.
        positives: number that the radiologists call positive.
        positive_patients: the number of their patients.
        radiologists: AUC of the predictions against the radiologists.
        nih: the same against NIH's labels of the same images.
        sensitivity: of NIH's labels, against the radiologists.
        ppv: of NIH's labels, against the radiologists.
    """

    finding: str
    subset: str
    images: int
    positives: int
    positive_patients: int
    radiologists: Estimate
    nih: Estimate
    sensitivity: Estimate
    ppv: Estimate


def agreement(readings: Readings, predictions: Predictions) -> list[Agreement]:
    """Score predictions for images with readings against both kinds of labels.

    Each set comes apart, since the sets were selected differently; all of several sets come last.
    """
    names = predictions.image_ids
    truth = np.stack([readings.read[name] for name in names])
    sets = np.array([readings.set_of[name] for name in names])
    rows_of_nih = rows_of(readings.nih, names)
    patients = np.array(readings.nih.patients)[rows_of_nih]
    scores = covered(predictions.labels, predictions.ranked)
    of_nih = np.zeros((len(names), len(FINDINGS)), np.uint8)
    for i, parts in enumerate(FINDINGS.values()):
        if parts:
            of_nih[:, i] = (readings.nih.columns(parts)[rows_of_nih] == 1).any(axis=1)
    chosen_of = {str(one): sets == one for one in sorted(set(sets))}
    if len(chosen_of) > 1:
        chosen_of[POOLED] = np.ones(len(names), bool)
    rows = []
    for subset, chosen in chosen_of.items():
        for i, (finding, parts) in enumerate(FINDINGS.items()):
            ours, theirs, score = truth[chosen, i], of_nih[chosen, i], scores[chosen, i]
            known = bool(parts) and not np.isnan(score).any()
            against_radiologists, against_nih = (
                _auc(labels, score, patients[chosen]) if known else NO_ESTIMATE
                for labels in (ours, theirs)
            )
            rows.append(
                Agreement(
                    finding,
                    subset,
                    images=int(chosen.sum()),
                    positives=int(ours.sum()),
                    positive_patients=len(set(patients[chosen][ours == 1])),
                    radiologists=against_radiologists,
                    nih=against_nih,
                    sensitivity=_share(theirs, ours, patients[chosen], parts),
                    ppv=_share(ours, theirs, patients[chosen], parts),
                )
            )
    return rows


def _auc(labels: np.ndarray, scores: np.ndarray, patients: np.ndarray) -> Estimate:
    result = auc_table(
        labels[:, None],
        {"": scores[:, None]},
        labels=("",),
        findings=("",),
        patient_ids=patients,
    )[""]
    return Estimate(result.auc[""], result.intervals[""])


def _share(hits: np.ndarray, among: np.ndarray, patients: np.ndarray, parts: Any) -> Estimate:
    """Return the share of `hits` where `among` is 1; nothing for findings that NIH has not."""
    mask = among == 1
    return share_of(hits[mask] == 1, patients[mask]) if parts else NO_ESTIMATE


def against_radiologists(
    readings: Readings, predictions: Predictions, scored: ScoredImages
) -> ScoredImages:
    """Put the readings in place of NIH's labels, for the findings that are predicted.

    Args:
        readings: hold all images.
        predictions: of the scored images.
        scored: the same images with NIH's labels.

    Raises:
        UserError: if no finding of the radiologists is predicted.
    """
    probabilities = covered(predictions.labels, predictions.probabilities)
    columns = [i for i in range(len(FINDINGS)) if not np.isnan(probabilities[:, i]).any()]
    if not columns:
        wanted = "; ".join(", ".join(parts) for parts in FINDINGS.values() if parts)
        raise UserError(
            f"the predictions cover no finding of the radiologists, so --out has nothing to show; "
            f"leave it out, or predict all labels of one finding: {wanted}"
        )
    labels = tuple(list(FINDINGS)[i] for i in columns)
    logits = predictions.logits
    (name,) = scored.probabilities
    sets = np.array([readings.set_of[image] for image in predictions.image_ids])
    return dataclasses.replace(
        scored,
        labels=labels,
        findings=labels,
        label_matrix=np.stack([readings.read[image] for image in scored.image_ids])[:, columns],
        probabilities={name: probabilities[:, columns]},
        logits={} if logits is None else {name: covered(predictions.labels, logits)[:, columns]},
        groups={"set": sets, **scored.groups},
    )


def keep_read(
    predictions: Predictions, path: str | Path, readings: Readings, labels_path: str | Path
) -> tuple[Predictions, str]:
    """Keep the predictions of images with readings; return them, and the counts in words.

    Raises:
        UserError: if no image has both.
    """
    rows = [i for i, name in enumerate(predictions.image_ids) if name in readings.read]
    if not rows:
        raise UserError(
            f"{path}: none of its {len(predictions.image_ids):,} images is in {labels_path}; give "
            f"predictions for images that the radiologists read"
        )
    counts = (
        f"{len(rows):,} images have predictions and readings; "
        f"{len(predictions.image_ids) - len(rows):,} predictions and "
        f"{len(readings.read) - len(rows):,} readings have no counterpart."
    )
    return predictions.take(rows), counts
