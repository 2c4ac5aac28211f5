"""Films in a folder, and the rows of a table of labels that they belong to."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from agcnn_jax.data.records import FILMS
from agcnn_jax.data.tables.label_table import LabelTable
from agcnn_jax.data.text import fitting_names, stem
from agcnn_jax.data_prep.prepare.shards import Input
from agcnn_jax.inference.films import printable
from agcnn_jax.inference.inputs import find_films
from agcnn_jax.runtime.errors import UserError

# How names are often changed: what happened, whether a film and a name differ by it, the remedy.
_CHANGES: tuple[tuple[str, Callable[[str, str], bool], str], ...] = (
    (
        "capitals differ, blanks around the name, or Unicode's forms of accents",
        lambda film, name: _folded(film) == _folded(name),
        "write the names as the films have them",
    ),
    (
        "the table has codes such as %20",
        lambda film, name: film == unquote(name),
        "write the characters themselves",
    ),
    (
        "the table has backslashes",
        lambda film, name: "\\" in name and f"/{name}".replace("\\", "/").endswith(f"/{film}"),
        "write / between folders",
    ),
    (
        "zeros were cut from the table",
        lambda film, name: stem(film) != stem(name) == stem(film).lstrip("0"),
        "export it again, with this column as text",
    ),
)


class Match(NamedTuple):
    """Which films belong to a table's rows.

    Attributes:
        row_of: id of a film, its path in the folder with `/` between parts -> row in the table.
        absent: rows without a film, ascending.
        strangers: films without a row, sorted.
    """

    row_of: dict[str, int]
    absent: list[int]
    strangers: list[str]


def list_films(images: Path, data_dir: Path) -> list[Input]:
    """List the films in a folder and in those below it, as `agcnn_jax.predict` finds them.

    Args:
        images: the folder.
        data_dir: a folder to leave out.

    Returns:
        Sorted by path.

    Raises:
        UserError: there is no such folder, no film in it, or the dataset would be in it.
    """
    if not images.is_dir():
        raise UserError(f"--images {images}: no such folder; give the one that holds the films")
    if os.path.realpath(images) in map(os.path.realpath, (data_dir, data_dir / FILMS.parts[0])):
        raise UserError(
            f"--data_dir {data_dir}: the dataset would be among the films in {images}; choose "
            "another"
        )
    inputs = []
    for path in find_films([str(images)], data_dir).films:
        try:
            status = os.stat(path)
            size, mtime = status.st_size, status.st_mtime_ns
        except OSError:  # the decoder says what is wrong
            size, mtime = 0, 0
        name = os.path.relpath(path, images).replace(os.sep, "/")
        inputs.append(Input(name, "image", size, mtime))
    return sorted(inputs)


def match_films(table: LabelTable, films: Sequence[str]) -> Match:
    """Find the film of each row.

    A row names a film by its path in the folder, with more or fewer folders in front, with or
    without its extension; see `fitting_names`. Backslashes separate no folders.

    Args:
        table: the rows; films that it leaves out by their view count neither as matched nor as
            strangers.
        films: their paths in the folder.

    Raises:
        UserError: several films fit a row, or one film fits several.
    """
    fitting = fitting_names([name for name in table.images if "\\" not in name], films)
    row_of: dict[str, int] = {}
    absent = []
    for row, name in enumerate(table.images):
        where = f"{table.path}, line {table.lines[row]}"
        found = fitting.get(name, ())
        if len(found) > 1:
            first, second = sorted(found)
            same = first.rpartition("/")[2] == second.rpartition("/")[2]
            raise UserError(
                f"{where}: {first!r} and {second!r} both fit {name!r}; write the "
                f"{'folder' if same else 'extension'}"
            )
        if not found:
            absent.append(row)
        elif row_of.setdefault(found[0], row) != row:
            other = row_of[found[0]]
            raise UserError(
                f"{where}: {name!r} and {table.images[other]!r} on line {table.lines[other]} both "
                f"fit {found[0]!r}; write the names of the films as paths in --images"
            )
    laterals = fitting_names(table.laterals, films).values()
    known = row_of.keys() | {film for found in laterals for film in found}
    return Match(row_of, absent, [film for film in films if film not in known])


def check_match(
    match: Match, table: LabelTable, films: Sequence[str], images: Path, max_bad: float
) -> None:
    """Check that few rows have no film, and few films no row.

    Args:
        match: from `match_films`.
        table: its rows.
        films: the paths of all films in the folder.
        images: the folder.
        max_bad: largest accepted share of the rows, 0 to 1.

    Raises:
        UserError: there are more; names one and, if it is known, why it was not found.
    """
    rows, absent, strangers = len(table.images), len(match.absent), len(match.strangers)
    if match.row_of and absent + strangers <= max_bad * rows:
        return
    if match.row_of and absent < strangers:
        raise UserError(
            f"{table.path}: {strangers} films in {images} have no row, such as "
            f"{printable(match.strangers[0])!r}, more than --max_bad {max_bad:g} of its {rows} "
            "rows; move them away, complete the table, or raise --max_bad"
        )
    row = match.absent[0]
    name = table.images[row]
    limit = f", where --max_bad {max_bad:g} lets {int(max_bad * rows)} be missing"
    raise UserError(
        f"{table.path}, line {table.lines[row]}: {len(match.row_of)} of {rows} names found in "
        f"{images}{limit * bool(match.row_of)}; {_why_absent(name, films)}"
    )


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name.strip()).casefold()


def _why_absent(name: str, films: Sequence[str]) -> str:
    for change, differ_by, remedy in _CHANGES:
        for film in films:
            if differ_by(film, name):
                return f"{printable(film)!r} resembles {name!r}: {change}; {remedy}"
    return (
        f"the table's first that is missing is {name[:200]!r}, the folder's first is "
        f"{printable(films[0])!r}; write the names of the films as paths in --images"
    )
