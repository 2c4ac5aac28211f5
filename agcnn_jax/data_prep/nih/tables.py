"""Reading NIH's tables: both editions of the label csv, and the box list."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from agcnn_jax.data.boxes import Box
from agcnn_jax.data.labels import FINDINGS, LABELS, MISSING, parse_age
from agcnn_jax.data.tables.csv_table import BLANKS, CsvTable, read_csv
from agcnn_jax.data.tables.label_table import LabelTable, read_label_table
from agcnn_jax.data.tables.options import TableOptions
from agcnn_jax.data.tables.roles import CORNERS, SIDES
from agcnn_jax.data.text import read_delimited
from agcnn_jax.data_prep.nih.names import file_name
from agcnn_jax.data_prep.prepare.plans import make_rows
from agcnn_jax.data_prep.prepare.shards import Row
from agcnn_jax.runtime.errors import UserError, say

INDEX = {name: index for index, name in enumerate(LABELS)}

# NIH's box list spells one finding differently from its label table.
BOX_FINDINGS = {"Infiltrate": "Infiltration"} | {name: name for name in FINDINGS}

COLUMNS = (
    *("Image Index", "Finding Labels", "Follow-up #", "Patient ID"),
    *("Patient Age", "Patient Gender", "View Position"),
)
# Other headers of the same columns in tables derived from NIH's.
RENAMED = {"Patient Sex": "Patient Gender"}
UNUSED = dict.fromkeys((*CORNERS, *SIDES, "study", "frontal", "split"), "")
INT32 = range(-(2**31), 2**31)  # the type of a record's fields


def read_labels(path: Path, nih: bool = True) -> dict[str, Row]:
    """Read `Data_Entry_2017.csv` or `Data_Entry_2017_v2020.csv`, by column name.

    Args:
        path: the csv, gzipped or not. Columns that are not in `COLUMNS` or `RENAMED` are ignored.
        nih: the images are ChestX-ray14's, and not others with names like these.

    Returns:
        Image name, as `file_name` returns it -> its row, with indices into `LABELS`.

    Raises:
        UserError: the file is unreadable, lacks a column, contains an unknown finding, an empty
            cell, a number beyond int32 or patient ids that `read_patients` refuses, or has two
            different rows for one image; the message names the file and the line.
    """
    table = read_csv(path)
    here = {RENAMED.get(name, name) for name in table.header}
    if missing := [name for name in COLUMNS if name not in here]:
        raise UserError(
            f"{path}: no column {', '.join(map(repr, missing))} in its first line; "
            "give NIH's Data_Entry_2017 table"
        )
    image = table.column("Image Index")
    for _, row in table.rows:
        if row[image].lower() not in BLANKS:
            row[image] = file_name(row[image])
    known = read_label_table(table, TableOptions(UNUSED, views="all", nih=nih))
    _check_labels(known)
    follow_ups = _read_numbers(table, "Follow-up #", _whole, "a whole number of 32 bits")
    ages = _read_numbers(table, "Patient Age", parse_age, "like 58, 058Y, 012M or 003D")
    known = dataclasses.replace(known, ages=tuple(ages[line] for line in known.lines))
    rows = make_rows(known, known.columns(LABELS), [follow_ups[line] for line in known.lines])
    return dict(zip(known.images, rows, strict=True))


def _check_labels(table: LabelTable) -> None:
    """Raise `UserError` if an image has no label, or one that is not in `LABELS`."""
    for label, column in zip(table.labels, table.matrix.T, strict=True):
        problem = ""
        if MISSING in column:
            wrong, problem = MISSING, "'Finding Labels' is empty; complete or delete the row"
        elif label not in LABELS:
            wrong, problem = 1, f"unknown finding {label!r} in 'Finding Labels'; the known ones "
            problem += f"are {', '.join(LABELS)}"
        if problem:
            line = table.lines[int((column == wrong).argmax())]
            raise UserError(f"{table.path}, line {line}: {problem}")


def _read_numbers(
    table: CsvTable, header: str, parse: Callable[[str], int | None], form: str
) -> dict[int, int]:
    """Return the number on each line of a column; `UserError` where `parse` returns None."""
    column = table.column(header)
    numbers = {cell: parse(cell) for cell in set(table.cells(column))}
    found = {}
    for line, row in table.rows:
        number = numbers[row[column]]
        if number is None:
            raise UserError(
                f"{table.path}, line {line}: {header!r} is {row[column][:40]!r}, not {form}; "
                "correct it"
            )
        found[line] = number
    return found


def _whole(text: str) -> int | None:
    try:
        return number if (number := int(text)) in INT32 else None
    except ValueError:
        return None


def read_boxes(path: Path, box_size: int) -> dict[str, tuple[Box, ...]]:
    """Read `BBox_List_2017.csv`.

    The commas of its header are misplaced (`Bbox [x,y,w,h],,,`), so columns are read by position:
    image, finding, then x, y, width, height in pixels of a `box_size` x `box_size` image.

    Args:
        path: the csv, gzipped or not.
        box_size: side in pixels of the images that the boxes refer to.

    Returns:
        Image name -> its boxes, in the order of the file.

    Raises:
        UserError: the file is unreadable, or a row is not a box within the image.
    """
    table = read_delimited(path)
    if table.note:
        say(table.note)
    rows = table.rows()
    _, header = next(rows, (0, []))
    if header[:2] != ["Image Index", "Finding Label"]:
        raise UserError(
            f"{path}: its first line does not begin with 'Image Index,Finding Label'; give NIH's "
            "BBox_List_2017 table"
        )
    boxes: dict[str, tuple[Box, ...]] = {}
    for line, row in rows:
        where = f"{path}, line {line}"
        try:
            x, y, width, height = (float(value) for value in row[2:6])
        except ValueError:
            raise UserError(
                f"{where}: no four numbers x, y, width, height, with decimal points; correct it"
            ) from None
        if row[1] not in BOX_FINDINGS:
            raise UserError(f"{where}: unknown finding {row[1]!r}; see {', '.join(FINDINGS)}")
        # `not` also catches NaN.
        if not (x >= 0 and y >= 0 and width > 0 and height > 0):
            raise UserError(f"{where}: not a box: x {x}, y {y}, width {width}, height {height}")
        if not (x + width <= box_size and y + height <= box_size):
            raise UserError(
                f"{where}: the box ends at {x + width:g}, {y + height:g}, outside an image of "
                f"{box_size} x {box_size}; give the side of the images that boxes refer to with "
                "--box_size"
            )
        box = Box(INDEX[BOX_FINDINGS[row[1]]], x, y, x + width, y + height)
        boxes[row[0]] = (*boxes.get(row[0], ()), box)
    return boxes
