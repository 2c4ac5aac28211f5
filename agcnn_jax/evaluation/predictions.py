"""Predictions and labels as CSV files: reading, writing, and scoring anyone's predictions."""

from __future__ import annotations

import csv
import dataclasses
import difflib
import math
import re
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from agcnn_jax.data.labels import LABELS, NO_FINDING
from agcnn_jax.data.marker import read_marker
from agcnn_jax.data.text import read_rows
from agcnn_jax.evaluation.cohort import describe_cohort
from agcnn_jax.evaluation.tables import Table, build_table
from agcnn_jax.metrics.auc_table import auc_table
from agcnn_jax.metrics.bootstrap import RESAMPLES
from agcnn_jax.runtime.errors import UserError

IMAGE_COLUMN = "Image Index"
PREFIX = "prob_"
_LABEL_COLUMNS = (IMAGE_COLUMN, "Finding Labels", "Patient ID")
# What Python's float() reads is more: "1_0", "nan", digits of other scripts.
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
# Names more alike than this may be one name misspelt ("Efusion": 0.93, "Infiltrate": 0.82).
_ALIKE = 0.8


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a file predicts: image names `[N]`, labels `[C]`, probabilities float64 `[N, C]`."""

    image_ids: list[str]
    labels: tuple[str, ...]
    probabilities: np.ndarray


@dataclasses.dataclass(frozen=True)
class Labels:
    """NIH's table: per image its labels and its patient; for each label its first line."""

    of_image: dict[str, frozenset[str]]
    patient: dict[str, str]
    lines: dict[str, int]


def write_predictions(
    path: str | Path, image_ids: Sequence[str], labels: Sequence[str], probabilities: np.ndarray
) -> None:
    """Write `Image Index, prob_<label>...`, as PyTorch CheXNet does.

    Args:
        path: the file to write.
        image_ids: names of the N images.
        labels: names of the C columns.
        probabilities: float32 `[N, C]`; written with the digits that read back to the same float32.
    """
    # str() of a float32 is the shortest text that rounds to it.
    text = np.asarray(probabilities, np.float32).astype(str)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([IMAGE_COLUMN, *(PREFIX + label for label in labels)])
        writer.writerows([name, *row] for name, row in zip(image_ids, text, strict=True))


def read_predictions(path: str | Path, known: Collection[str]) -> Predictions:
    """Read predictions of any program.

    Columns are `prob_<label>`, or plain `<label>` if none has the prefix; capitals, spaces and
    underscores do not matter. Where some have the prefix, other columns are passed over, if they
    have a name. Any finite number will do, logits too: an AUC depends on the order only.

    Args:
        path: a CSV file, gzipped or not.
        known: the labels that there may be.

    Raises:
        UserError: if the file, a column, a row or a number is not usable.
    """
    header, rows = _read_csv(path)
    image_column = _column(path, header, IMAGE_COLUMN)
    columns = _label_columns(path, header, known)
    image_ids: list[str] = []
    probabilities = np.empty((len(rows), len(columns)))
    for i, (line, row) in enumerate(rows):
        image_ids.append(row[image_column])
        for c, column in enumerate(columns.values()):
            probabilities[i, c] = _number(row[column], f"{path}, line {line}, {header[column]}")
    _refuse_duplicates(path, image_ids)
    return Predictions(image_ids, tuple(columns), probabilities)


def read_labels(path: str | Path) -> Labels:
    """Read NIH's `Data_Entry_2017.csv` or `Data_Entry_2017_v2020.csv`, gzipped or not.

    Labels may be others than ChestX-ray14's, in one spelling each.

    Raises:
        UserError: if the file is not usable or not such a table, or a row would make a score
            wrong; the message names file, line and value.
    """
    header, rows = _read_csv(path)
    image, finding, patient = (_column(path, header, name) for name in _LABEL_COLUMNS)
    _refuse_duplicates(path, [row[image] for _, row in rows])
    labels: dict[str, frozenset[str]] = {}
    lines: dict[str, int] = {}
    spelling = {_key(name): name for name in LABELS}
    for line, row in rows:
        where = f"{path}, line {line}"
        for column in (image, patient):
            if not row[column]:
                raise UserError(f"{where}: {header[column]!r} is empty; complete or delete the row")
        parts = [part.strip() for part in row[finding].split("|")]
        for name in parts:
            if not name:
                raise UserError(f"{where}: the column {header[finding]!r} has an empty label")
            if (usual := spelling.setdefault(_key(name), name)) != name:
                raise UserError(
                    f"{where}: {name!r} in {header[finding]!r}; write {usual!r}, as elsewhere"
                )
            lines.setdefault(name, line)
        if NO_FINDING in parts and len(set(parts)) > 1:
            raise UserError(
                f"{where}: {row[finding]!r} is both a finding and none; correct the row"
            )
        labels[row[image]] = frozenset(parts)
    patients = {row[image]: row[patient] for _, row in rows}
    return Labels(labels, patients, lines)


def evaluate_predictions(
    predictions_path: str | Path,
    labels_path: str | Path,
    *,
    digits: int = 6,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Table:
    """The AUC table of a file of predictions; print it with `tables.as_text`.

    Args:
        predictions_path: see `read_predictions`.
        labels_path: see `read_labels`; may hold more images than were predicted.
        digits: decimals of the AUCs.
        resamples: of the bootstrap over patients.
        seed: of the bootstrap.

    Raises:
        UserError: if a file is not usable, a label is not known, or an image has no labels.
    """
    labels = read_labels(labels_path)
    predictions = read_predictions(predictions_path, {*LABELS, *labels.lines})
    _refuse_unknown(labels, labels_path, predictions)
    unknown = [name for name in predictions.image_ids if name not in labels.of_image]
    if unknown:
        raise UserError(
            f"{predictions_path}: {len(unknown):,} of {len(predictions.image_ids):,} images, the "
            f"first {unknown[0]!r}, are not in {labels_path}; give the labels of the same images"
        )
    of_image = [labels.of_image[name] for name in predictions.image_ids]
    matrix = np.array([[name in one for name in predictions.labels] for one in of_image], np.uint8)
    patients = [labels.patient[name] for name in predictions.image_ids]
    scores = auc_table(
        matrix,
        {"predictions": predictions.probabilities},
        labels=predictions.labels,
        findings=tuple(name for name in predictions.labels if name != NO_FINDING),
        patient_ids=patients,
        resamples=resamples,
        seed=seed,
    )
    # Labels that lie beside the phantoms' marker are phantoms', and the table has to say so.
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
    return build_table(scores, cohort, digits)


def _refuse_unknown(labels: Labels, path: str | Path, predictions: Predictions) -> None:
    """Refuse labels that may be others misspelt, whose images would count as negative.

    A label that is not ChestX-ray14's is taken for one of its own only where the file predicts it;
    and if it is almost one of ChestX-ray14's, where the file predicts that one too.
    """
    for name, line in labels.lines.items():
        if name in LABELS:
            continue
        alike = difflib.get_close_matches(name.lower(), [x.lower() for x in LABELS], 1, _ALIKE)
        meant = next((x for x in LABELS if [x.lower()] == alike), None)
        predicted = set(predictions.labels)
        if name in predicted and (meant is None or meant in predicted):
            continue
        advice = f"the known ones are {', '.join(LABELS)}, and those that are predicted"
        if meant is not None:
            advice = f"did you mean {meant!r}?"
        raise UserError(f"{path}, line {line}: unknown finding {name!r}; {advice}")


def _key(name: str) -> str:
    return re.sub(r"[\s_]+", "", name).lower()


def _read_csv(path: str | Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Header and (line number, cells) of every row that is not blank; all of the same length."""
    rows = list(read_rows(Path(path)))
    if len(rows) < 2:
        raise UserError(f"{path}: {'has no rows below its header' if rows else 'is empty'}")
    header = rows[0][1]
    # The first edition of NIH's table ends its lines with a comma: a column without a name.
    while not header[-1]:
        header.pop()
    unnamed = [i for i, column in enumerate(header) if not column]
    for line, row in rows[1:]:
        if len(row) < len(header) or any(row[len(header) :]):
            raise UserError(
                f"{path}, line {line}: {len(row)} columns, but the header has {len(header)}"
            )
    for i in unnamed:
        # pandas writes its row numbers as a column without a name.
        numbers = [row[i] for _, row in rows[1:]]
        if len(set(numbers)) < len(numbers) or not all(re.fullmatch("[0-9]+", x) for x in numbers):
            raise UserError(f"{path}, line 1: column {i + 1} has no name; name or remove it")
    return header, rows[1:]


def _column(path: str | Path, header: Sequence[str], name: str) -> int:
    found = [i for i, column in enumerate(header) if _key(column) == _key(name)]
    if len(found) > 1:
        raise UserError(f"{path}: has {len(found)} columns {name!r}; keep one")
    if found:
        return found[0]
    shown = ", ".join(header[:6]) + (", ..." if len(header) > 6 else "")
    raise UserError(f"{path}: has no column {name!r}; its columns are: {shown[:200]}")


def _label_columns(
    path: str | Path, header: Sequence[str], known: Collection[str]
) -> dict[str, int]:
    """The column of each label that the file predicts, in the file's order."""
    prefix = _key(PREFIX)
    prefixed = [i for i, column in enumerate(header) if _key(column).startswith(prefix)]
    # pandas reads its own row numbers, which have no name, as "Unnamed: 0".
    passed_over = (_key(IMAGE_COLUMN), "", "unnamed:0")
    plain = [i for i, column in enumerate(header) if _key(column) not in passed_over]
    by_key = {_key(label): label for label in known}
    columns: dict[str, int] = {}
    for i in prefixed or plain:
        label = by_key.get(_key(header[i]).removeprefix(prefix))
        if label is None:
            raise UserError(
                f"{path}: column {header[i]!r} is not a known finding; name it {PREFIX}<finding> "
                f"with one of: {', '.join(sorted(known))}"
            )
        if label in columns:
            raise UserError(
                f"{path}: {header[columns[label]]!r} and {header[i]!r} are both {label}"
            )
        columns[label] = i
    if not columns:
        raise UserError(f"{path}: has no column of probabilities, such as {PREFIX}{LABELS[0]}")
    return columns


def _number(cell: str, where: str) -> float:
    value = float(cell) if _DECIMAL.fullmatch(cell) else math.nan
    if not math.isfinite(value):
        raise UserError(f"{where}: {cell!r} is not a finite number; give a probability")
    return value


def _refuse_duplicates(path: str | Path, image_ids: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in image_ids:
        if name in seen:
            raise UserError(f"{path}: image {name!r} has more than one row; keep one")
        seen.add(name)
