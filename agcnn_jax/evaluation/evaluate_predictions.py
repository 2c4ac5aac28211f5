"""The evaluation of any program's predictions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from etils import epath

from agcnn_jax.data.collection import NIH, Collection, read_collection
from agcnn_jax.data.labels import NO_FINDING
from agcnn_jax.data.patients import nih_name
from agcnn_jax.data.splits import digest_of
from agcnn_jax.data.tables.csv_table import read_csv
from agcnn_jax.evaluation.auc.aucs import aucs_table
from agcnn_jax.evaluation.files.label_table import check_spelling, read_labels
from agcnn_jax.evaluation.files.table import Table
from agcnn_jax.evaluation.findings.agreement_tables import agreement_table
from agcnn_jax.evaluation.scoring.cohort import Cohort, describe_cohort
from agcnn_jax.evaluation.scoring.evaluation import compute
from agcnn_jax.evaluation.scoring.prediction_files import (
    align,
    keep,
    label_images,
    read_files,
    read_subset,
    validate_on,
)
from agcnn_jax.evaluation.scoring.radiologists import (
    against_radiologists,
    agreement,
    check_nih,
    keep_read,
    read_radiologists,
)
from agcnn_jax.evaluation.scoring.scored import ScoredImages
from agcnn_jax.evaluation.scoring.subsets import FlowRow, count_subset, subset_of_table
from agcnn_jax.evaluation.scoring.validation import NOT_VALIDATED
from agcnn_jax.evaluation.write import write_evaluation
from agcnn_jax.run import lineage
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.paths import expand
from agcnn_jax.runtime.storage import absolute, check_new, exists

DIGITS = 6


def evaluate_predictions(
    predictions_path: str | Path,
    labels_path: str | Path,
    *,
    compare_path: str | Path | None = None,
    subset_path: str | Path | None = None,
    validation_path: str | Path | None = None,
    logits: bool = False,
    out: str | Path | None = None,
) -> Table:
    """Score a file of predictions, or two of the same images.

    Args:
        predictions_path: see `read_predictions`.
        labels_path: see `read_labels`, or radiologists' labels, see `read_radiologists`; may hold
            images without predictions.
        compare_path: predictions of another model for the same images and findings, to test the
            differences; see `comparison`.
        subset_path: a list of image names, one a line, see `read_names`; only these are scored.
        validation_path: the same model's predictions of other images, to choose thresholds; its
            images have labels too.
        logits: the files hold logits instead of probabilities.
        out: a new folder for tables, figures and the report; None writes nothing.

    Returns:
        The table, with AUCs to 6 decimals; print it with `as_text`.

    Raises:
        UserError: if a file is unusable, a label is unknown, an image has no labels, the files
            are not of the same images and findings, or an option has no effect.
    """
    if validation_path is not None:
        if out is None:
            raise UserError("--validation goes with --out, which gets the results at thresholds")
        if compare_path is not None:
            raise UserError("--validation is of one model; leave --compare or --validation out")
    if out is not None:
        check_new(absolute(out))
    predictions_path, labels_path = expand(predictions_path), expand(labels_path)
    label_table = read_csv(labels_path)
    readings = read_radiologists(label_table)
    if readings:
        check_nih(labels_path, read_collection(Path(labels_path).parent))
    for option, given in (("compare", compare_path), ("validation", validation_path)):
        if readings and given:
            raise UserError(f"--{option} has no effect with radiologists' labels; leave it out")
    labels = readings.nih if readings else read_labels(label_table)
    paths = [predictions_path, *([compare_path] if compare_path else [])]
    files = read_files(paths, labels, logits)
    check_spelling(labels, files[0].labels)
    notes: tuple[str, ...] = ()
    flow = [
        FlowRow("in the table of labels", len(labels.images)),
        FlowRow("predicted", len(files[0].image_ids)),
    ]
    if subset_path is not None:
        listed = read_subset(subset_path, labels)
        files = [
            keep(one, path, listed, subset_path) for one, path in zip(files, paths, strict=True)
        ]
        missing = f"{len(listed) - len(files[0].image_ids):,} have no prediction"
        notes = (f"Of {len(listed):,} images in {Path(subset_path).name}, {missing}.",)
        flow.append(FlowRow(f"in {Path(subset_path).name}", len(listed)))
    left_out = [name for name in labels.labels if name not in (*files[0].labels, NO_FINDING)]
    if left_out and not readings:
        notes = (*notes, f"Not predicted, so not in the mean: {', '.join(sorted(left_out))}.")
    if readings:
        files[0], counts = keep_read(files[0], predictions_path, readings, labels_path)
        notes = (counts, *notes)
    names = ["predictions"]
    if len(files) == 2:
        files[1] = align(files[1], files[0], paths)
        names = _names(paths)
    scored = label_images(files, names, labels, predictions_path)
    if readings and out is not None:
        scored = against_radiologists(readings, files[0], scored)
    validated = None if out is None else NOT_VALIDATED
    if validation_path is not None:
        validated = validate_on(validation_path, scored, labels, logits)
    cohort = _describe(scored, paths, labels_path, bool(readings))
    agreements = agreement(readings, files[0]) if readings else []
    if readings and out is None:
        return agreement_table(agreements, cohort, notes)
    compared = (names[0], names[1]) if len(files) == 2 else None
    evaluation = dataclasses.replace(
        compute(scored, cohort, validated, compared), notes=notes, digits=DIGITS
    )
    if out is not None:
        evaluation = dataclasses.replace(
            evaluation,
            agreement=agreements,
            flow=[*flow, FlowRow("scored", cohort.images, cohort.patients)],
            subsets=[count_subset(subset_of_table(scored, labels))],
        )
        write_evaluation(evaluation, absolute(out))
    return agreement_table(agreements, cohort, notes) if readings else aucs_table(evaluation)


def _describe(
    scored: ScoredImages, paths: Sequence[str | Path], labels_path: str | Path, nih: bool
) -> Cohort:
    """Describe the scored images, of which the files say neither split nor model.

    With `nih`, they are known to be ChestX-ray14's.
    """
    collection = read_collection(Path(labels_path).parent)
    # Images of which no file says the collection are the NIH's if their names are.
    known = nih or collection is not NIH or all(map(nih_name, scored.image_ids))
    provenance = f"{' and '.join(Path(path).name for path in paths)} on {Path(labels_path).name}"
    if collection != NIH:
        provenance += f", {collection.provenance}"
    return describe_cohort(
        scored.label_matrix,
        scored.labels,
        scored.patient_ids,
        split=None,
        protocol=None,
        backbone=None,
        provenance=provenance,
        synthetic=collection.synthetic,
        overlap=_overlap(_lineage_beside(paths), collection if known else None, scored),
        images_digest=digest_of(np.sort(scored.image_ids)),
        collection=collection.name if known else None,
    )


def _overlap(
    trained: lineage.Lineage, collection: Collection | None, scored: ScoredImages
) -> lineage.Overlap:
    """Count the images that the models saw; without a collection, they may be of any."""
    name, synthetic = "", False
    if collection is None:
        seen = {image: of for images in trained.seen.values() for image, of in images.items()}
        if trained != lineage.NOTHING:
            trained = lineage.Lineage({name: seen}, frozenset({lineage.ANY_COLLECTION}))
    else:
        name, synthetic = collection.name, collection.synthetic
    return trained.overlap(
        name, list(scored.image_ids), list(scored.patient_ids), synthetic=synthetic
    )


def _lineage_beside(paths: Sequence[str | Path]) -> lineage.Lineage:
    """Read what the models were trained on, which a run's evaluation writes beside predictions."""
    trained = lineage.NOTHING
    for path in paths:
        folder = epath.Path(expand(path)).parent
        known = exists(folder / lineage.FILE)
        trained = trained.joined(lineage.read(folder)[0] if known else lineage.UNKNOWN)
    return trained


def _names(paths: Sequence[str | Path]) -> list[str]:
    """Name the two files' columns: by their own names, or by their paths if these are the same."""
    short = [Path(path).name for path in paths]
    return short if len(set(short)) == 2 else [f"{i}: {path}" for i, path in enumerate(paths, 1)]
