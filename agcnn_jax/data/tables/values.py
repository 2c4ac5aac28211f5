"""Labels as the rows of a table have them, in each of the three ways to write them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from agcnn_jax.data.labels import LABELS
from agcnn_jax.data.tables.csv_table import BLANKS, CsvTable
from agcnn_jax.data.tables.options import TableOptions
from agcnn_jax.data.tables.roles import ROLES
from agcnn_jax.data.tables.synonyms import read_synonyms
from agcnn_jax.data.text import plain
from agcnn_jax.metrics.subgroups import MEAN
from agcnn_jax.runtime.errors import UserError

NEGATIVE, POSITIVE, UNCERTAIN, BLANK, UNNAMED = range(5)
"""A row's values of a label; UNNAMED if another row of the film may name the label."""

WORDS = ("0", "1", "-1", "blank", "nothing")
"""The values in words."""

# All cells of a column are written in one of these forms, or in the user's own words.
_FORMS: tuple[dict[str, int], ...] = (
    {"1": POSITIVE, "0": NEGATIVE, "-1": UNCERTAIN},
    {"1.0": POSITIVE, "0.0": NEGATIVE, "-1.0": UNCERTAIN},
    {"true": POSITIVE, "false": NEGATIVE},
    {"yes": POSITIVE, "no": NEGATIVE},
)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_SEPARATORS = "|;,"
_USUAL = {plain(label): label for label in LABELS}


class RowLabels(NamedTuple):
    """The labels of R rows.

    Attributes:
        labels: names of the C labels, in the paper's spelling where they are the paper's.
        values: NEGATIVE, POSITIVE, UNCERTAIN, BLANK or UNNAMED, uint8 `[R, C]`.
        columns: indices of the columns that hold the labels.
    """

    labels: tuple[str, ...]
    values: np.ndarray
    columns: tuple[int, ...]


def read_values(table: CsvTable, roles: Mapping[str, int], options: TableOptions) -> RowLabels:
    """Read the labels of each row.

    Raises:
        UserError: a cell or the name of a finding is unusable, or there are no labels.
    """
    if "labels" in roles:
        return _of_lists(table, roles["labels"], options)
    if "finding" in roles:
        return _of_finding_rows(table, roles, options)
    return _of_columns(table, set(roles.values()), options)


def _of_columns(table: CsvTable, taken: set[int], options: TableOptions) -> RowLabels:
    """Read a table with a column for each finding: all that hold nothing but labels."""
    for name in options.findings:
        table.column(name)  # says that there is none, and which there are
    wanted = set(map(plain, options.findings))
    known = set(_USUAL).union(*({plain(row.name), plain(row.means)} for row in read_synonyms()))
    meanings: dict[int, dict[str, int]] = {}
    wrong: dict[int, str] = {}
    # A second column of ages or ids is no finding, even where it holds 0 and 1 alone.
    usual = {plain(name) for names in ROLES.values() for name in names}
    free = [
        i
        for i, name in enumerate(table.header)
        if name
        and i not in taken
        and (plain(name) in wanted if wanted else plain(name) not in usual)
    ]
    for i in free:
        named = plain(table.header[i]) in (wanted or known)
        meaning = _meaning(table.cells(i), options)
        if isinstance(meaning, str):
            wrong[i] = meaning
        # A column without any value is no finding because of that.
        elif named or set(meaning.values()) - {BLANK}:
            meanings[i] = meaning
    for i, cell in wrong.items():
        among = meanings and min(meanings) < i < max(meanings)
        if plain(table.header[i]) in (wanted or known) or (among and _almost(table.cells(i))):
            raise _no_label(table, i, cell)
    if not meanings:
        raise UserError(
            f"{table.path}, line 1: no column of findings; give one for each, with 1, 0, -1 or "
            f"nothing in its cells, or a column 'Finding Labels' of names separated by |"
        )
    names = [_checked(table.header[i], f"{table.path}, line 1") for i in meanings]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{table.path}, line 1: {names.count(name)} columns {name!r}; keep one")
    values = np.empty((len(table.lines), len(names)), np.uint8)
    for c, (i, meaning) in enumerate(meanings.items()):
        values[:, c] = [meaning[cell] for cell in table.cells(i)]
    return RowLabels(tuple(names), values, tuple(meanings))


def _meaning(cells: Iterable[str], options: TableOptions) -> dict[str, int] | str:
    """Return the value of each distinct cell, or else the first cell that is no label."""
    words = dict.fromkeys(BLANKS, BLANK)
    for value, given in (
        (POSITIVE, options.positive),
        (NEGATIVE, options.negative),
        (UNCERTAIN, options.uncertain),
    ):
        words |= {word.strip().casefold(): value for word in given}
    keys = {cell: cell.strip().casefold() for cell in dict.fromkeys(cells)}
    others = [cell for cell, key in keys.items() if key not in words]
    form = max(_FORMS, key=lambda form: sum(keys[cell] in form for cell in others))
    for cell in others:
        if keys[cell] not in form:
            return cell
    return {cell: words[key] if key in words else form[key] for cell, key in keys.items()}


def _almost(cells: list[str]) -> bool:
    """Tell whether cells that are not all labels may be meant as such.

    They are numbers, and most of them are labels, or all are from 0 to 1. Ages and weights are not.
    """
    filled = [cell.strip() for cell in cells if cell.strip().lower() not in BLANKS]
    if not all(map(_NUMBER.fullmatch, filled)):
        return False
    numbers = np.array(filled, float)
    return bool(np.isin(numbers, (0, 1, -1)).mean() > 0.5 or (abs(numbers - 0.5) <= 0.5).all())


def _no_label(table: CsvTable, column: int, cell: str) -> UserError:
    """Say what is wrong with the first cell of this text, and the remedy."""
    line = table.lines[table.cells(column).index(cell)]
    where = f"{table.path}, line {line}, {table.header[column]}"
    text = cell.strip()
    if _NUMBER.fullmatch(text) and 0 < float(text) < 1:
        return UserError(
            f"{where}: {text} is no label; give labels instead of probabilities, or leave the "
            f"column out (from_csv.py: --findings)"
        )
    if any(text.casefold() in form for form in _FORMS):
        return UserError(
            f"{where}: {text!r} is one way to write a label, and other rows have another; use one"
        )
    return UserError(
        f"{where}: {text[:40]!r} is none of 1, 0, -1, blank; write one of these, or name its "
        f"meaning (from_csv.py: --positive, --negative or --uncertain)"
    )


def _of_lists(table: CsvTable, column: int, options: TableOptions) -> RowLabels:
    """Read a table with a column of names, separated or as a Python list."""
    cells = table.cells(column)
    line_of: dict[str, int] = {}
    for cell, line in zip(cells, table.lines, strict=True):
        line_of.setdefault(cell, line)
    separator = options.separator or next(
        (one for one in _SEPARATORS if any(one in cell for cell in line_of if not _python(cell))),
        "|",
    )
    spelling: dict[str, str] = {}
    index: dict[str, int] = {}
    named: list[list[int] | None] = []  # of each distinct cell; None if it is blank
    for cell, line in line_of.items():
        where = f"{table.path}, line {line}"
        names = _names(cell, separator, f"{where}, {table.header[column]}")
        if names is not None and not all(names):
            raise UserError(f"{where}: the column {table.header[column]!r} has an empty label")
        for name in names or ():
            _spell(name, spelling, where, table.header[column])
        named.append(
            None
            if names is None
            else [index.setdefault(_checked(name, where), len(index)) for name in names]
        )
    if not index:
        raise UserError(f"{table.path}: no film has a label in {table.header[column]!r}")
    distinct = np.zeros((len(named), len(index)), np.uint8)
    for row, indices in enumerate(named):
        distinct[row, slice(None) if indices is None else indices] = (
            BLANK if indices is None else POSITIVE
        )
    row_of = {cell: row for row, cell in enumerate(line_of)}
    return RowLabels(tuple(index), distinct[[row_of[cell] for cell in cells]], (column,))


def _python(cell: str) -> bool:
    return cell.strip()[:1] == "[" and cell.strip()[-1:] == "]"


def _names(cell: str, separator: str, where: str) -> list[str] | None:
    """Return the names in a cell, stripped; None if the cell is blank."""
    if not _python(cell):
        blank = cell.strip().lower() in BLANKS
        return None if blank else [name.strip() for name in cell.split(separator)]
    try:
        names = ast.literal_eval(cell.strip())
        if not all(isinstance(name, str) for name in names):
            raise ValueError
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise UserError(f"{where}: {cell.strip()[:40]!r} is no list of names; correct it") from None
    stripped = [name.strip() for name in names]
    # [] is a film without findings, [''] one whose report said nothing.
    return None if stripped and not any(stripped) else [name for name in stripped if name]


def _of_finding_rows(table: CsvTable, roles: Mapping[str, int], options: TableOptions) -> RowLabels:
    """Read a table whose rows name one finding each."""
    column = roles["finding"]
    spelling: dict[str, str] = {}
    index: dict[str, int] = {}
    place: dict[str, int] = {}  # of each distinct cell: the index of its label, -1 if it is blank
    for cell, line in zip(table.cells(column), table.lines, strict=True):
        if cell in place:
            continue
        name = cell.strip()
        if name.lower() in BLANKS:
            place[cell] = -1
            continue
        where = f"{table.path}, line {line}"
        _spell(name, spelling, where, table.header[column])
        place[cell] = index.setdefault(_checked(name, where), len(index))
    if not index:
        raise UserError(f"{table.path}: no row has a finding in {table.header[column]!r}")
    places = np.array([place[cell] for cell in table.cells(column)])
    filled = places >= 0
    values = np.full((len(places), len(index)), UNNAMED, np.uint8)
    of_rows: int | np.ndarray = POSITIVE
    columns: tuple[int, ...] = (column,)
    if "value" in roles:
        columns = (column, roles["value"])
        cells = table.cells(roles["value"])
        meaning = _meaning(cells, options)
        if isinstance(meaning, str):
            raise _no_label(table, roles["value"], meaning)
        of_rows = np.array([meaning[cell] for cell in cells], np.uint8)[filled]
    values[filled, places[filled]] = of_rows
    return RowLabels(tuple(index), values, columns)


def _spell(name: str, spelling: dict[str, str], where: str, header: str) -> None:
    """Raise `UserError` if a table spells one name in two ways."""
    usual = spelling.setdefault(plain(name), name)
    if usual != name:
        usual = _USUAL.get(plain(name), usual)
        raise UserError(f"{where}: {name!r} in {header!r}; write {usual!r}, as elsewhere")


def _checked(name: str, where: str) -> str:
    """Return the label that a name means; `UserError` for a number, or what tables cannot show."""
    if "|" in name:
        raise UserError(f"{where}: the name {name!r} has a |, which separates names; rename it")
    if _NUMBER.fullmatch(name):
        raise UserError(f"{where}: {name!r} is a number and no name of a finding; write a name")
    if plain(name) == plain(MEAN):
        raise UserError(f"{where}: {name!r} is what tables of results call their means; rename it")
    if not name.isprintable() or len(name) > 100:
        why = "is too long" if name.isprintable() else "has a character that cannot be printed"
        raise UserError(f"{where}: the name {name[:40]!r} {why}; rename it")
    return _USUAL.get(plain(name), name)
