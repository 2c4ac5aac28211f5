"""Files of predictions, brought together: two models, a list of images, validation images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from agcnn_jax.data.labels import LABELS, findings_of
from agcnn_jax.data.tables.csv_table import check_unique
from agcnn_jax.data.tables.label_table import LabelTable
from agcnn_jax.data.text import match_names, read_names
from agcnn_jax.evaluation.files.label_table import groups_of, rows_of
from agcnn_jax.evaluation.files.predictions import Predictions, read_predictions
from agcnn_jax.evaluation.scoring.scored import ScoredImages
from agcnn_jax.evaluation.scoring.validation import Validated, fit_calibration, shared_patients
from agcnn_jax.runtime.errors import UserError

Paths = Sequence[str | Path]


def read_files(paths: Paths, labels: LabelTable, logits: bool) -> list[Predictions]:
    """Read predictions of ChestX-ray14's labels and of any other that the images have.

    Images get the names that they have in the table of labels; see `match_names`.

    Raises:
        UserError: as `read_predictions`, or two rows are of one image.
    """
    files = []
    for path in paths:
        predictions = read_predictions(path, {*LABELS, *labels.labels}, logits)
        in_table = match_names(predictions.image_ids, labels.images)
        image_ids = [in_table.get(name, name) for name in predictions.image_ids]
        check_unique(image_ids, path)
        files.append(dataclasses.replace(predictions, image_ids=image_ids))
    return files


def read_subset(path: str | Path, labels: LabelTable) -> set[str]:
    """Read a list of image names; `UserError` if it is empty or names images without labels."""
    listed = dict.fromkeys(read_names(Path(path)))
    if not listed:
        raise UserError(f"{path}: names no image; give a list with an image name a line")
    in_table = match_names(listed, labels.images)
    unknown = [name for name in listed if name not in in_table]
    if unknown:
        raise UserError(
            f"{path}: {len(unknown):,} of {len(listed):,} names, the first {unknown[0]!r}, are not "
            f"in {labels.path}, whose first is {labels.images[0]!r}; give a list of the "
            f"images in that table"
        )
    return set(in_table.values())


def keep(
    predictions: Predictions, path: str | Path, listed: set[str], subset_path: str | Path
) -> Predictions:
    """Keep the predictions of listed images; `UserError` if there are none."""
    kept = [i for i, name in enumerate(predictions.image_ids) if name in listed]
    if not kept:
        raise UserError(f"{path}: has none of the images in {subset_path}; give another --subset")
    return predictions.take(kept)


def align(second: Predictions, first: Predictions, paths: Paths) -> Predictions:
    """Bring the rows and columns of the second file into the order of the first.

    Raises:
        UserError: if a file lacks images or findings of the other.
    """

    def without(names: Sequence[str], others: Sequence[str]) -> list[str]:
        known = set(others)
        return [name for name in names if name not in known]

    for what, ours, theirs in (
        ("images", first.image_ids, second.image_ids),
        ("findings", first.labels, second.labels),
    ):
        for has, lacks, names in (
            (paths[0], paths[1], without(ours, theirs)),
            (paths[1], paths[0], without(theirs, ours)),
        ):
            if names:
                raise UserError(
                    f"{lacks}: lacks {len(names):,} of the {what} in {has}, the first "
                    f"{names[0]!r}; compare predictions of the same {what}"
                )
    rows = {name: i for i, name in enumerate(second.image_ids)}
    columns = [second.labels.index(label) for label in first.labels]
    return second.take([rows[name] for name in first.image_ids], columns)


def label_images(
    files: Sequence[Predictions], names: Sequence[str], labels: LabelTable, path: str | Path
) -> ScoredImages:
    """Put predictions of the same images beside their labels.

    Args:
        files: of one or two models; images and labels in the same order.
        names: of the models.
        labels: may hold more images.
        path: of the first file, for messages.

    Raises:
        UserError: if an image has no labels.
    """
    image_ids = files[0].image_ids
    known = set(labels.images)
    unknown = [name for name in image_ids if name not in known]
    if unknown:
        raise UserError(
            f"{path}: {len(unknown):,} of {len(image_ids):,} images, the first {unknown[0]!r}, are "
            f"not in {labels.path}, whose first is {labels.images[0]!r}; give the labels of the "
            f"same images"
        )
    columns, rows = files[0].labels, rows_of(labels, image_ids)
    named = dict(zip(names, files, strict=True))
    return ScoredImages(
        image_ids=image_ids,
        patient_ids=[labels.patients[row] for row in rows],
        labels=columns,
        findings=findings_of(columns),
        label_matrix=labels.columns(columns)[rows],
        probabilities={name: one.probabilities for name, one in named.items()},
        logits={name: one.logits for name, one in named.items() if one.logits is not None},
        groups=groups_of(labels, rows),
    )


def validate_on(
    path: str | Path, scored: ScoredImages, labels: LabelTable, logits: bool
) -> Validated:
    """Choose thresholds on a file of predictions of validation images.

    They are logits if both files have them, and probabilities otherwise.

    Args:
        path: the file; findings that were not scored are ignored.
        scored: predictions of one model.
        labels: of all images.
        logits: the file holds logits instead of probabilities.

    Raises:
        UserError: if the file is unusable, lacks scored findings, or has scored images.
    """
    (predictions,) = read_files([path], labels, logits)
    images = set(scored.image_ids)
    shared = [name for name in predictions.image_ids if name in images]
    if shared:
        raise UserError(
            f"{path}: {len(shared):,} of {len(predictions.image_ids):,} images, the first "
            f"{shared[0]!r}, are scored too; give predictions of other images"
        )
    lacking = [name for name in scored.labels if name not in predictions.labels]
    if lacking:
        raise UserError(
            f"{path}: lacks {len(lacking):,} of the scored findings, the first {lacking[0]!r}; "
            f"give predictions of the same findings"
        )
    columns = [predictions.labels.index(name) for name in scored.labels]
    (model,) = scored.probabilities
    chosen_on = label_images(
        [predictions.take(range(len(predictions.image_ids)), columns)],
        [model],
        labels,
        path,
    )
    calibration = fit_calibration(chosen_on, on_logits=bool(scored.logits))
    return Validated(calibration, shared_patients(chosen_on.patient_ids, scored))
