"""Predictions as CSV files."""

from __future__ import annotations

import csv
import dataclasses
import math
import re
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from agcnn_jax.data.labels import LABELS
from agcnn_jax.evaluation.csv_table import IMAGE_COLUMN, CsvTable, plain, read_csv
from agcnn_jax.runtime.errors import UserError

PREFIX = "prob_"
# Python's float() reads more: "1_0", "nan", digits of other scripts.
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Image names `[N]`, labels `[C]` and probabilities float64 `[N, C]`."""

    image_ids: list[str]
    labels: tuple[str, ...]
    probabilities: np.ndarray


def write_predictions(
    path: str | Path, image_ids: Sequence[str], labels: Sequence[str], probabilities: np.ndarray
) -> None:
    """Write `Image Index, prob_<label>...`, as PyTorch CheXNet does.

    Args:
        path: the file to write.
        image_ids: names of the N images.
        labels: names of the C columns.
        probabilities: float32 `[N, C]`; written with enough digits to read back the same values.
    """
    # str() of a float32 is the shortest text that rounds to it.
    text = np.asarray(probabilities, np.float32).astype(str)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([IMAGE_COLUMN, *(PREFIX + label for label in labels)])
        writer.writerows([name, *row] for name, row in zip(image_ids, text, strict=True))


def read_predictions(path: str | Path, known: Collection[str], logits: bool = False) -> Predictions:
    """Read predictions of any program.

    Columns are `prob_<label>`, or plain `<label>` if none has the prefix; capitals, spaces and
    underscores do not matter. If some columns have the prefix, other named columns are ignored.

    Args:
        path: a CSV file, gzipped or not.
        known: labels that columns may name.
        logits: accept any finite number; otherwise numbers from 0 to 1 only.

    Raises:
        UserError: if the file, a column, a row or a number is unusable.
    """
    table = read_csv(path)
    image_ids = table.image_ids()
    columns = _label_columns(table, known)
    probabilities = np.empty((len(table.rows), len(columns)))
    for i, (line, row) in enumerate(table.rows):
        for c, column in enumerate(columns.values()):
            where = f"{path}, line {line}, {table.header[column]}"
            probabilities[i, c] = _number(row[column], where, logits)
    return Predictions(image_ids, tuple(columns), probabilities)


def _label_columns(table: CsvTable, known: Collection[str]) -> dict[str, int]:
    """Return the column of each predicted label, in the file's order."""
    path, header = table.path, table.header
    prefix = plain(PREFIX)
    prefixed = [i for i, column in enumerate(header) if plain(column).startswith(prefix)]
    # pandas calls its nameless index "Unnamed: 0" when it reads it back.
    ignored = (plain(IMAGE_COLUMN), "", "unnamed:0")
    unprefixed = [i for i, column in enumerate(header) if plain(column) not in ignored]
    by_plain_name = {plain(label): label for label in known}
    columns: dict[str, int] = {}
    for i in prefixed or unprefixed:
        label = by_plain_name.get(plain(header[i]).removeprefix(prefix))
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


def _number(cell: str, where: str, logits: bool) -> float:
    value = float(cell) if _DECIMAL.fullmatch(cell) else math.nan
    if not math.isfinite(value):
        raise UserError(f"{where}: {cell!r} is not a finite number; give a probability")
    if not (logits or 0 <= value <= 1):
        raise UserError(
            f"{where}: {cell} is no probability from 0 to 1; give --logits if these are logits"
        )
    return value
