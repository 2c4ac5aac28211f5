"""Films of a table of labels: rows of one film joined, and what else the table knows of it."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import compress

import numpy as np

from agcnn_jax.data.boxes import Box
from agcnn_jax.data.labels import NO_FINDING, parse_age
from agcnn_jax.data.patients import nih_name, read_patients
from agcnn_jax.data.tables.csv_table import BLANKS, CsvTable
from agcnn_jax.data.tables.options import TableOptions
from agcnn_jax.data.tables.roles import CORNERS, SIDES
from agcnn_jax.data.tables.values import (
    BLANK,
    NEGATIVE,
    POSITIVE,
    UNNAMED,
    WORDS,
    RowLabels,
)
from agcnn_jax.runtime.errors import UserError

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "val", "valid", "validate"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_FRONTAL = re.compile(r"(pa|ap|frontal|front|posteroanterior|anteroposterior)([\s_/-].*)?", re.I)
_LATERAL = re.compile(r"l|ll|rl|lat|((left|right)[\s_-]?)?lateral", re.I)
_OPEN_AGE = re.compile(r"(\d{1,3})(\.0+|\s*\+|\s*or (more|older))", re.I)


@dataclasses.dataclass(frozen=True, eq=False)
class Films:
    """The N films of a table's R rows.

    Attributes:
        names: of the films, in the order of the file `[N]`.
        first: the first row of each film, int64 `[N]`.
        of_row: the film of each row, int64 `[R]`.
    """

    names: tuple[str, ...]
    first: np.ndarray
    of_row: np.ndarray


def films_of(images: Sequence[str]) -> Films:
    """Find the films of the rows' image names."""
    index: dict[str, int] = {}
    of_row = np.array([index.setdefault(image, len(index)) for image in images])
    return Films(tuple(index), np.unique(of_row, return_index=True)[1], of_row)


def without_laterals(
    table: CsvTable, roles: Mapping[str, int], options: TableOptions
) -> tuple[CsvTable, tuple[str, ...], list[str]]:
    """Leave out the rows of films that are not frontal; films without a view stay.

    Returns:
        The other rows, the images that are left out, and what to say of them.

    Raises:
        UserError: no film is frontal.
    """
    column = roles.get("frontal", roles.get("view"))
    if options.views == "all" or column is None:
        return table, (), []
    frontal = {
        view: view.strip().lower() in BLANKS or bool(_FRONTAL.fullmatch(view.strip()))
        for view in set(table.cells(column))
    }
    views = table.cells(column)
    others = {
        name: view.strip()
        for name, view in zip(table.cells(roles["image"]), views, strict=True)
        if not frontal[view]
    }
    by_view = Counter(
        "lateral" if _LATERAL.fullmatch(view) else f"{view!r} by their view"
        for view in others.values()
    )
    kept = [frontal[view] for view in views]
    if not any(kept):
        raise UserError(
            f"{table.path}, line {table.lines[0]}: no film is frontal, since "
            f"{table.header[column]!r} is {views[0].strip()!r} here; give "
            f"--views all"
        )
    notices = [
        f"{count:,} films are {view}; left out (--views all keeps them)"
        for view, count in by_view.most_common()
    ]
    lines = list(compress(table.lines, kept))
    columns = [list(compress(cells, kept)) for cells in table.columns]
    return table._replace(lines=lines, columns=columns), tuple(others), notices


def merge_rows(table: CsvTable, films: Films, row_labels: RowLabels) -> np.ndarray:
    """Join the values of each film's rows.

    Returns:
        NEGATIVE, POSITIVE, UNCERTAIN or BLANK, uint8 `[N, C]`. What no row of a film names is
        negative, or blank if the film's rows name nothing at all.

    Raises:
        UserError: two rows of a film give a label other values.
    """
    values = row_labels.values
    merged = np.full((len(films.names), values.shape[1]), UNNAMED, np.uint8)
    conflicts = []
    for c in range(values.shape[1]):
        named = np.flatnonzero(values[:, c] != UNNAMED)
        film = films.of_row[named]
        merged[film[::-1], c] = values[named[::-1], c]  # of equal indices the last one counts
        different = named[values[named, c] != merged[film, c]]
        conflicts += [(different[0], c)] if len(different) else []
    if conflicts:
        row, c = min(conflicts)
        same = films.of_row == films.of_row[row]
        other = np.flatnonzero(same & (values[:, c] != UNNAMED))[0]
        label = row_labels.labels[c]
        raise _twice(table, films, row, other, label, *(WORDS[values[r, c]] for r in (other, row)))
    unnamed = merged == UNNAMED
    merged[unnamed] = NEGATIVE
    merged[unnamed.all(axis=1)] = BLANK
    return merged


def film_cells(table: CsvTable, films: Films, roles: Mapping[str, int]) -> dict[str, list[str]]:
    """Return, of each role that a film has one cell of, the films' cells `[N]`, stripped.

    Those of patients keep the blanks around them. `nan` is no sex, view, study or age.

    Raises:
        UserError: two rows of a film differ in one.
    """
    found = {}
    for role in ("patient", "frontal", "view", "age", "sex", "split"):
        if role not in roles:
            continue
        cells = table.cells(roles[role])
        if len(cells) > len(films.names):
            for row, film in enumerate(films.of_row):
                first = films.first[film]
                if cells[row] != cells[first]:
                    texts = (repr(cells[first]), repr(cells[row]))
                    raise _twice(table, films, row, first, table.header[roles[role]], *texts)
        found[role] = [cells[row] for row in films.first]
        if role != "patient":
            stripped = map(str.strip, found[role])
            found[role] = ["" if cell.lower() in BLANKS else cell for cell in stripped]
    return found


def _twice(
    table: CsvTable, films: Films, row: int, other: int, what: str, there: str, here: str
) -> UserError:
    return UserError(
        f"{where(table, row)}: {films.names[films.of_row[row]]} is also on line "
        f"{table.lines[other]} with {what} {there}, here {here}; keep the right one"
    )


def film_patients(
    table: CsvTable, films: Films, roles: Mapping[str, int], cells: list[str] | None, nih: bool
) -> tuple[str, ...]:
    """Return the patients `[N]`, see `read_patients`; the films themselves without a column."""
    if cells is None:
        return films.names
    lines = [table.lines[row] for row in films.first]
    header = table.header[roles["patient"]]
    nih = nih and all(map(nih_name, films.names))
    return tuple(read_patients(cells, lines, table.path, header, nih))


def film_splits(
    table: CsvTable, films: Films, cells: Sequence[str], patients: Sequence[str]
) -> tuple[str, ...]:
    """Return train, validation or test of each film.

    Raises:
        UserError: a cell is neither, or a patient has films in two of them.
    """
    first: dict[str, int] = {}
    splits = []
    for film, (cell, patient) in enumerate(zip(cells, patients, strict=True)):
        row = films.first[film]
        split = SPLITS.get(cell.lower())
        if split is None:
            raise UserError(
                f"{where(table, row)}: the split is {cell!r}; write train, validation or test, or "
                f"leave the column out with --split_column ''"
            )
        splits.append(split)
        other = first.setdefault(patient, film)
        if splits[other] != split:
            raise UserError(
                f"{table.path}: patient {patient} is in {splits[other]} (line "
                f"{table.lines[films.first[other]]}) and {split} (line {table.lines[row]}); "
                f"put all films of a patient in one"
            )
    return tuple(splits)


def film_ages(
    table: CsvTable, films: Films, cells: Sequence[str]
) -> tuple[tuple[int, ...], list[str]]:
    """Return the ages in whole years, -1 if unknown, and what to say of those without a meaning."""
    parsed: dict[str, int | None] = {}
    for cell in cells:
        if cell not in parsed:
            known = _OPEN_AGE.fullmatch(cell)
            parsed[cell] = int(known[1]) if known else parse_age(cell)
    wrong = [film for film, cell in enumerate(cells) if parsed[cell] is None]
    notices = []
    if wrong:
        line = table.lines[films.first[wrong[0]]]
        notices = [
            f"{len(wrong):,} ages, the first {cells[wrong[0]][:40]!r} on line {line}, are not like "
            f"58, 058Y, 012M or 003D; unknown"
        ]
    return tuple(-1 if (age := parsed[cell]) is None else age for cell in cells), notices


def film_boxes(
    table: CsvTable,
    films: Films,
    roles: Mapping[str, int],
    row_labels: RowLabels,
    labels: Sequence[str],
) -> dict[str, tuple[Box, ...]]:
    """Return the films' boxes, each of the one finding that its row has.

    Args:
        table: has corners, or a corner and the sides.
        films: of its rows.
        roles: of its columns.
        row_labels: of its rows.
        labels: those that boxes may have, by their index; boxes of others are left out.

    Raises:
        UserError: a box is not four numbers, has swapped corners, or is not of one finding.
    """
    names = next((four for four in (CORNERS, SIDES) if set(four) <= roles.keys()), None)
    if names is None:
        return {}
    findings = np.array([label != NO_FINDING for label in row_labels.labels])
    positive = (row_labels.values == POSITIVE) & findings
    boxes: dict[str, dict[Box, None]] = {}
    columns = [roles[name] for name in names]
    for row, (_, cells) in enumerate(table.rows):
        texts = [cells[column].strip() for column in columns]
        if all(text.lower() in BLANKS for text in texts):
            continue
        corners = _corners(texts, names, where(table, row))
        of_row = np.flatnonzero(positive[row])
        if len(of_row) != 1:
            raise UserError(
                f"{where(table, row)}: a box in a row with {len(of_row)} findings; give each box a "
                f"row with its one finding"
            )
        label = row_labels.labels[of_row[0]]
        if label in labels:
            box = Box(labels.index(label), *corners)
            boxes.setdefault(films.names[films.of_row[row]], {})[box] = None
    return {name: tuple(of_film) for name, of_film in boxes.items()}


def _corners(texts: Sequence[str], names: Sequence[str], place: str) -> list[float]:
    """Return xmin, ymin, xmax, ymax of a row's four cells."""
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        raise UserError(
            f"{place}: {', '.join(names)} are {', '.join(texts)}, not four numbers; correct them"
        ) from None
    if tuple(names) == SIDES:
        x, y, width, height = numbers
        numbers = [x, y, x + width, y + height]
    xmin, ymin, xmax, ymax = numbers
    # `not` also catches NaN.
    if not (0 <= xmin < xmax < np.inf and 0 <= ymin < ymax < np.inf):
        raise UserError(
            f"{place}: no box from {xmin:g}, {ymin:g} to {xmax:g}, {ymax:g}; its corners are "
            f"swapped, or it is empty or outside the film"
        )
    return numbers


def where(table: CsvTable, row: int) -> str:
    """Return the file and the line of a row."""
    return f"{table.path}, line {table.lines[row]}"
