"""CSV files of other programs, read strictly."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from agcnn_jax.data.text import IMAGE_COLUMNS, plain, read_delimited
from agcnn_jax.runtime.errors import UserError, say
from agcnn_jax.runtime.paths import expand

IMAGE_COLUMN = IMAGE_COLUMNS[0]
PATH_COLUMN = "path"

BLANKS = ("", "nan")
"""Cells without a value, in small letters: pandas writes "nan" for what is missing in a column."""


class CsvTable(NamedTuple):
    """A CSV file.

    Attributes:
        path: of the file.
        header: names of the columns.
        lines: number of the first line of each of the R rows that are not blank `[R]`.
        columns: cells of each column `[R]`.
    """

    path: str | Path
    header: list[str]
    lines: list[int]
    columns: list[list[str]]

    @property
    def rows(self) -> Iterator[tuple[int, tuple[str, ...]]]:
        """Yield the line number and the cells of each row."""
        return zip(self.lines, zip(*self.columns, strict=True), strict=True)

    def column(self, name: str) -> int:
        """Return the index of the column of this name in any spelling.

        Raises:
            UserError: if there is none or more than one.
        """
        matches = [i for i, column in enumerate(self.header) if plain(column) == plain(name)]
        if len(matches) > 1:
            raise UserError(f"{self.path}: has {len(matches)} columns {name!r}; keep one")
        if not matches:
            shown = ", ".join(self.header[:6]) + (", ..." if len(self.header) > 6 else "")
            raise UserError(f"{self.path}: has no column {name!r}; its columns are: {shown[:200]}")
        return matches[0]

    def cells(self, column: int) -> list[str]:
        """Return the cells of the column of this index."""
        return self.columns[column]

    def image_column(self) -> int:
        """Return the index of the column of image names: the first of `IMAGE_COLUMNS` there.

        Raises:
            UserError: if there is none, or more than one of that name.
        """
        here = set(map(plain, self.header))
        return self.column(next((c for c in IMAGE_COLUMNS if plain(c) in here), IMAGE_COLUMN))

    def image_ids(self) -> list[str]:
        """Return the image name of every row.

        Where names repeat, those in a column `path` count, which predictions of films in folders
        have.

        Raises:
            UserError: if an image has more than one row.
        """
        names = self.cells(self.image_column())
        if len(set(names)) < len(names) and PATH_COLUMN in self.header:
            names = self.cells(self.column(PATH_COLUMN))
        check_unique(names, self.path)
        return names


def check_unique(names: Sequence[str], path: str | Path) -> None:
    """Raise `UserError` if an image has more than one row."""
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise UserError(f"{path}: image {name!r} has more than one row; keep one")


def read_csv(path: str | Path | CsvTable, strip: bool = True) -> CsvTable:
    """Read a CSV file, gzipped or not; say on stderr if it has other delimiters than commas.

    A table that has been read is returned as it is.

    Args:
        path: of the file, or a table.
        strip: remove the blanks around cells; those around headers are always removed.

    Raises:
        UserError: if it is empty, a row is longer or shorter than the header, or a column has no
            name.
    """
    if isinstance(path, CsvTable):
        return path
    path = expand(path)
    source = read_delimited(Path(path))
    if source.note:
        say(source.note)
    rows = source.rows(strip)
    _, first = next(rows, (1, [""]))
    header = [cell.strip() for cell in first]
    # Lines of the first edition of NIH's table end with a comma, as if before a nameless column.
    while header and not header[-1]:
        header.pop()
    lines: list[int] = []
    columns: list[list[str]] = [[] for _ in header]
    # One object for all equal cells: a large table then takes a third of the memory.
    shared: dict[str, str] = {}
    for line, row in rows:
        if len(row) < len(header) or any(map(str.strip, row[len(header) :])):
            remedy = (
                "complete it, and close its quotes"
                if len(row) < len(header)
                else "write decimal points, and quote cells with commas"
            )
            raise UserError(
                f"{path}, line {line}: {len(row)} columns, but the header has {len(header)}; "
                f"{remedy}"
            )
        lines.append(line)
        for column, cell in zip(columns, row, strict=False):
            column.append(shared.setdefault(cell, cell))
    if not lines:
        raise UserError(f"{path}: {'has no rows below its header' if header else 'is empty'}")
    for i, name in enumerate(header):
        if not name and not _are_row_numbers(columns[i]):
            raise UserError(f"{path}, line 1: column {i + 1} has no name; name or remove it")
    return CsvTable(path, header, lines, columns)


def _are_row_numbers(cells: Sequence[str]) -> bool:
    """Tell whether a nameless column may be pandas' index."""
    return len(set(cells)) == len(cells) and all(
        re.fullmatch("[0-9]+", cell.strip()) for cell in cells
    )
