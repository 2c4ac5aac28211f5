"""Predictions as CSV files."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from scipy.special import expit

from agcnn_jax.data.labels import LABELS
from agcnn_jax.data.tables.csv_table import IMAGE_COLUMN, CsvTable, read_csv
from agcnn_jax.data.text import IMAGE_COLUMNS, csv_text, plain
from agcnn_jax.runtime.errors import UserError

PREFIX = "prob_"
LOGIT_PREFIX = "logit_"
# Python's float() reads more: "1_0", "nan", digits of other scripts.
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?", re.ASCII)
# Largest difference between a probability and the sigmoid of its logit that is rounding.
_TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Predictions:
    """A model's predictions of N images and C labels.

    Attributes:
        image_ids: names `[N]`.
        labels: names `[C]`.
        probabilities: float64 `[N, C]`.
        logits: float64 `[N, C]`; None if the file holds probabilities alone.
    """

    image_ids: list[str]
    labels: tuple[str, ...]
    probabilities: np.ndarray
    logits: np.ndarray | None = None

    @property
    def ranked(self) -> np.ndarray:
        """What AUCs rank: the logits, since probabilities tie near 0 and 1, if they are known."""
        return self.probabilities if self.logits is None else self.logits

    def take(self, rows: Sequence[int], columns: Sequence[int] | None = None) -> Predictions:
        """Return the predictions of some images, in their order, and of all or some labels."""
        indices = range(len(self.labels)) if columns is None else columns
        cells = np.ix_(rows, indices)
        return Predictions(
            [self.image_ids[row] for row in rows],
            tuple(self.labels[column] for column in indices),
            self.probabilities[cells],
            None if self.logits is None else self.logits[cells],
        )


def predictions_csv(
    image_ids: Sequence[str],
    labels: Sequence[str],
    probabilities: np.ndarray,
    logits: np.ndarray | None = None,
) -> str:
    """Write `Image Index, prob_<label>...`, as PyTorch CheXNet does, then `logit_<label>...`.

    Args:
        image_ids: names of the N images.
        labels: names of the C columns.
        probabilities: float `[N, C]`; written with enough digits to read back the same values.
        logits: the same before the sigmoid; None leaves their columns out.
    """
    header, columns = [IMAGE_COLUMN], []
    for prefix, values in ((PREFIX, probabilities), (LOGIT_PREFIX, logits)):
        if values is not None:
            header += [prefix + label for label in labels]
            # str() of a float is the shortest text that rounds to it.
            columns.append(np.asarray(values).astype(str))
    rows = np.concatenate(columns, axis=1)
    return csv_text(header, ([name, *row] for name, row in zip(image_ids, rows, strict=True)))


def read_predictions(path: str | Path, known: Collection[str], logits: bool = False) -> Predictions:
    """Read predictions of any program.

    Images are in a column of `IMAGE_COLUMNS`. The others are `prob_<label>`, or plain `<label>` if
    none has a prefix, and `logit_<label>`; capitals, spaces and underscores do not matter. If some
    columns have a prefix, other named columns are ignored. Where a file has both kinds, AUCs rank
    the logits.

    Args:
        path: a CSV file, gzipped or not.
        known: labels that columns may name.
        logits: `prob_` or plain columns hold logits: any finite number, not only 0 to 1.

    Raises:
        UserError: if the file, a column, a row or a number is unusable, not the same labels have
            both kinds of columns, a probability is not the sigmoid of its logit, or `logits` is
            True for a file that has `logit_` columns or whose numbers are all from 0 to 1.
    """
    table = read_csv(path)
    image_ids = table.image_ids()
    columns = _columns(table, PREFIX, known)
    of_logits = _columns(table, LOGIT_PREFIX, known)
    if not columns and not of_logits:
        columns = _columns(table, "", known)
    if not columns and not of_logits:
        raise UserError(f"{path}: has no column of probabilities, such as {PREFIX}{LABELS[0]}")
    if of_logits and logits:
        raise UserError(
            f"{path}: has {LOGIT_PREFIX} columns, which are read as such; leave --logits out"
        )
    for one, other, prefix in ((columns, of_logits, LOGIT_PREFIX), (of_logits, columns, PREFIX)):
        if other and (lacking := [label for label in one if label not in other]):
            raise UserError(
                f"{path}: has no column {prefix}{lacking[0]}, but others with {prefix}; add it, "
                f"or leave out all columns with {LOGIT_PREFIX}"
            )
    labels = tuple(columns or of_logits)
    if logits:
        values = _numbers(table, columns, any_number=True)
        if ((values >= 0) & (values <= 1)).all():
            where = _where(table, 0, next(iter(columns.values())))
            raise UserError(
                f"{where}: {values[0, 0]:g}, and all numbers are from 0 to 1, so they are "
                f"probabilities; leave --logits out, or name columns of logits "
                f"{LOGIT_PREFIX}<finding>"
            )
        return Predictions(image_ids, labels, expit(values), values)
    logit_values = (
        _numbers(table, {label: of_logits[label] for label in labels}, True) if of_logits else None
    )
    probabilities = _numbers(table, columns, False) if columns else expit(logit_values)
    if columns and logit_values is not None:
        _check_sigmoid(table, columns, probabilities, logit_values)
    return Predictions(image_ids, labels, probabilities, logit_values)


def _check_sigmoid(
    table: CsvTable, columns: dict[str, int], probabilities: np.ndarray, logits: np.ndarray
) -> None:
    """Refuse probabilities `[N, C]` that are not the sigmoids of logits `[N, C]`."""
    sigmoids = expit(logits)
    wrong = np.argwhere(np.abs(probabilities - sigmoids) > _TOLERANCE)
    if len(wrong):
        i, c = wrong[0]
        raise UserError(
            f"{_where(table, i, list(columns.values())[c])}: {probabilities[i, c]:.6g}, but the "
            f"sigmoid of the logit {logits[i, c]:.6g} is {sigmoids[i, c]:.6g}; write both from the "
            f"same output, or leave one kind of column out"
        )


def _where(table: CsvTable, row: int, column: int) -> str:
    return f"{table.path}, line {table.lines[row]}, {table.header[column]}"


def _columns(table: CsvTable, prefix: str, known: Collection[str]) -> dict[str, int]:
    """Return the column of each predicted label with this prefix, in the file's order."""
    path, header = table.path, table.header
    if prefix:
        indices = [i for i, column in enumerate(header) if plain(column).startswith(plain(prefix))]
    else:
        # pandas calls its nameless index "Unnamed: 0" when it reads it back.
        ignored = (*map(plain, IMAGE_COLUMNS), "", "unnamed:0")
        indices = [i for i, column in enumerate(header) if plain(column) not in ignored]
    by_plain_name = {plain(label): label for label in known}
    columns: dict[str, int] = {}
    for i in indices:
        label = by_plain_name.get(plain(header[i]).removeprefix(plain(prefix)))
        if label is None:
            raise UserError(
                f"{path}: column {header[i]!r} is not a known finding; name it "
                f"{prefix or PREFIX}<finding> with one of: {', '.join(sorted(known))}"
            )
        if label in columns:
            raise UserError(
                f"{path}: {header[columns[label]]!r} and {header[i]!r} are both {label}"
            )
        columns[label] = i
    return columns


def _numbers(table: CsvTable, columns: dict[str, int], any_number: bool) -> np.ndarray:
    """Read columns, float64 `[N, C]`: any finite numbers, or numbers from 0 to 1 only."""
    values = np.empty((len(table.lines), len(columns)))
    for i, (line, row) in enumerate(table.rows):
        for c, column in enumerate(columns.values()):
            where = f"{table.path}, line {line}, {table.header[column]}"
            values[i, c] = _number(row[column], where, any_number)
    return values


def _number(cell: str, where: str, any_number: bool) -> float:
    value = float(cell) if _DECIMAL.fullmatch(cell) else math.nan
    if _DECIMAL_COMMA.fullmatch(cell):
        raise UserError(
            f"{where}: {cell!r} has a decimal comma; write {cell.replace(',', '.')}, such as with "
            f"pandas' to_csv(decimal='.') or a spreadsheet in English"
        )
    if not math.isfinite(value):
        raise UserError(f"{where}: {cell!r} is not a finite number; give one")
    if not (any_number or 0 <= value <= 1):
        raise UserError(
            f"{where}: {cell} is no probability from 0 to 1; give --logits if these are logits"
        )
    return value
