"""The AUC table of any program's predictions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from etils import epath

from agcnn_jax.data.labels import LABELS, NO_FINDING
from agcnn_jax.data.marker import read_marker
from agcnn_jax.data.splits import digest_of
from agcnn_jax.data.text import read_names
from agcnn_jax.evaluation.cohort import describe_cohort, headline, leakage
from agcnn_jax.evaluation.comparison import with_differences
from agcnn_jax.evaluation.label_table import Labels, read_labels, refuse_misspelt
from agcnn_jax.evaluation.predictions import Predictions, read_predictions
from agcnn_jax.evaluation.radiologists import (
    agreement,
    agreement_table,
    read_radiologists,
    scored_images,
)
from agcnn_jax.evaluation.tables import Table, build_table
from agcnn_jax.metrics.auc_table import auc_table
from agcnn_jax.metrics.bootstrap import RESAMPLES
from agcnn_jax.run import lineage
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.storage import exists

DIGITS = 6


def evaluate_predictions(
    predictions_path: str | Path,
    labels_path: str | Path,
    *,
    compare_path: str | Path | None = None,
    subset_path: str | Path | None = None,
    logits: bool = False,
    resamples: int = RESAMPLES,
) -> Table:
    """Score a file of predictions, or two of the same images.

    Args:
        predictions_path: see `read_predictions`.
        labels_path: see `read_labels`, or radiologists' labels, see `read_radiologists`; may hold
            images without predictions.
        compare_path: predictions of another model for the same images and findings, to test the
            differences; see `comparison`.
        subset_path: a list of image names, one a line; only these are scored.
        logits: the files hold logits instead of probabilities.
        resamples: of the bootstrap over patients.

    Returns:
        The table, with AUCs to 6 decimals; print it with `table_text.as_text`.

    Raises:
        UserError: if a file is unusable, a label is unknown, an image has no labels, or the files
            are not of the same images and findings.
    """
    readings = read_radiologists(labels_path)
    if readings and compare_path:
        raise UserError("--compare has no effect with radiologists' labels; leave it out")
    labels = readings.nih if readings else read_labels(labels_path)
    paths = [predictions_path, *([compare_path] if compare_path else [])]
    files = [read_predictions(path, {*LABELS, *labels.lines}, logits) for path in paths]
    refuse_misspelt(labels, labels_path, files[0].labels)
    notes: tuple[str, ...] = ()
    if subset_path is not None:
        listed = _read_subset(subset_path, labels, labels_path)
        files = [
            _keep(one, path, listed, subset_path) for one, path in zip(files, paths, strict=True)
        ]
        missing = f"{len(listed) - len(files[0].image_ids):,} have no prediction"
        notes = (f"Of {len(listed):,} images in {Path(subset_path).name}, {missing}.",)
    if readings:
        files[0], counts = scored_images(files[0], predictions_path, readings, labels_path)
        notes = (counts, *notes)
    first = files[0]
    unknown = [name for name in first.image_ids if name not in labels.of_image]
    if unknown:
        raise UserError(
            f"{predictions_path}: {len(unknown):,} of {len(first.image_ids):,} images, the "
            f"first {unknown[0]!r}, are not in {labels_path}; give the labels of the same images"
        )
    names = ["predictions"]
    if len(files) == 2:
        files[1] = _align(files[1], first, paths)
        names = _names(paths)
    of_image = [labels.of_image[name] for name in first.image_ids]
    matrix = np.array([[name in one for name in first.labels] for one in of_image], np.uint8)
    patients = [labels.patient[name] for name in first.image_ids]
    # The phantoms' marker beside the labels makes the table say that they are synthetic.
    marker = read_marker(Path(labels_path).parent)
    provenance = f"{' and '.join(Path(path).name for path in paths)} on {Path(labels_path).name}"
    if marker:
        provenance += f", {marker['provenance']}"
    seen = _lineage_beside(paths)
    collection = marker.get("collection", lineage.CHESTXRAY14)
    overlap = seen.overlap(collection, first.image_ids, patients)
    cohort = describe_cohort(
        matrix,
        first.labels,
        patients,
        split=None,
        protocol=None,
        backbone=None,
        provenance=provenance,
        overlap=overlap,
        images_digest=digest_of(np.sort(first.image_ids)),
    )
    if readings:
        rows = agreement(readings, first, resamples)
        below = (*notes, leakage(cohort) or "")
        return agreement_table(rows, (headline(cohort),), below)
    results = auc_table(
        matrix,
        {name: one.ranked for name, one in zip(names, files, strict=True)},
        labels=first.labels,
        findings=tuple(name for name in first.labels if name != NO_FINDING),
        patient_ids=patients,
        resamples=resamples,
    )
    table = build_table(results, cohort, DIGITS)
    table = dataclasses.replace(table, below=(*notes, *table.below))
    return with_differences(table, results) if len(files) == 2 else table


def _lineage_beside(paths: Sequence[str | Path]) -> lineage.Lineage:
    """Read what the models were trained on, which a run's evaluation writes beside predictions."""
    seen = lineage.NOTHING
    for path in paths:
        folder = epath.Path(path).parent
        known = exists(folder / lineage.FILE)
        seen = seen.joined(lineage.read(folder)[0] if known else lineage.UNKNOWN)
    return seen


def _names(paths: Sequence[str | Path]) -> list[str]:
    """Name the two files' columns: by their own names, or by their paths if these are the same."""
    short = [Path(path).name for path in paths]
    return short if len(set(short)) == 2 else [f"{i}: {path}" for i, path in enumerate(paths, 1)]


def _read_subset(path: str | Path, labels: Labels, labels_path: str | Path) -> set[str]:
    listed = set(read_names(Path(path)))
    if not listed:
        raise UserError(f"{path}: names no image; give a list with an image name a line")
    unknown = sorted(listed - labels.of_image.keys())
    if unknown:
        raise UserError(
            f"{path}: {len(unknown):,} of {len(listed):,} names, the first {unknown[0]!r}, are not "
            f"in {labels_path}; give a list of the images in that table"
        )
    return listed


def _keep(
    given: Predictions, path: str | Path, listed: set[str], subset_path: str | Path
) -> Predictions:
    kept = [i for i, name in enumerate(given.image_ids) if name in listed]
    if not kept:
        raise UserError(f"{path}: has none of the images in {subset_path}; give another --subset")
    return given.take(kept)


def _align(second: Predictions, first: Predictions, paths: Sequence[str | Path]) -> Predictions:
    """Bring the rows and columns of the second file into the order of the first."""
    for what, ours, theirs in (
        ("images", first.image_ids, second.image_ids),
        ("findings", first.labels, second.labels),
    ):
        for has, lacks, names in (
            (paths[0], paths[1], [name for name in ours if name not in set(theirs)]),
            (paths[1], paths[0], [name for name in theirs if name not in set(ours)]),
        ):
            if names:
                raise UserError(
                    f"{lacks}: lacks {len(names):,} of the {what} in {has}, the first "
                    f"{names[0]!r}; compare predictions of the same {what}"
                )
    rows = {name: i for i, name in enumerate(second.image_ids)}
    columns = [second.labels.index(label) for label in first.labels]
    order = [rows[name] for name in first.image_ids]
    return second.take(order, columns)
