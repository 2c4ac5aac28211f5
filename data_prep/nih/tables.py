"""Reading NIH's tables: both editions of the label csv, and the box list."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from agcnn_jax.data.boxes import Box
from agcnn_jax.data.labels import FINDINGS, LABELS, MISSING, parse_age
from agcnn_jax.data.tables.csv_table import read_csv
from agcnn_jax.data.tables.label_table import read_label_table
from agcnn_jax.data.tables.options import TableOptions
from agcnn_jax.data.tables.roles import CORNERS, SIDES
from agcnn_jax.data.text import read_delimited
from agcnn_jax.runtime.errors import UserError, say
from data_prep.nih.names import file_name

INDEX = {name: index for index, name in enumerate(LABELS)}

# NIH's box list spells one finding differently from its label table.
BOX_FINDINGS = {"Infiltrate": "Infiltration"} | {name: name for name in FINDINGS}

# Field of a record -> header of its column.
COLUMNS = {
    "image_id": "Image Index",
    "labels": "Finding Labels",
    "follow_up": "Follow-up #",
    "patient_id": "Patient ID",
    "age": "Patient Age",
    "sex": "Patient Gender",
    "view": "View Position",
}
# Role of a column in a table of labels -> field.
ROLES = {
    "image": "image_id",
    "labels": "labels",
    "patient": "patient_id",
    "age": "age",
    "sex": "sex",
    "view": "view",
}
UNUSED = dict.fromkeys((*CORNERS, *SIDES, "study", "frontal", "split"), "")
# Other headers of the same columns in tables derived from NIH's.
RENAMED = {"Patient Sex": "Patient Gender"}
INT32 = range(-(2**31), 2**31)  # the type of a record's fields


class LabelRow(NamedTuple):
    """An image's row in the label table.

    `labels` are ascending indices into `LABELS`; `age` is in whole years, -1 if unknown;
    `patient_id` is a text, so ids need not be numbers; in ChestX-ray14 it is a whole number.
    """

    labels: tuple[int, ...]
    patient_id: str
    follow_up: int
    age: int
    sex: str
    view: str


def read_labels(path: Path, nih: bool = True) -> dict[str, LabelRow]:
    """Read `Data_Entry_2017.csv` or `Data_Entry_2017_v2020.csv`, by column name.

    Args:
        path: the csv, gzipped or not. Columns that are not in `COLUMNS` or `RENAMED` are ignored.
        nih: the images are ChestX-ray14's, and not others with names like these.

    Returns:
        Image name, as `file_name` returns it -> its row.

    Raises:
        UserError: the file is unreadable, lacks a column, contains an unknown finding, an empty
            cell, a number beyond int32 or patient ids that `read_patients` refuses, or has two
            different rows for one image; the message names the file and the line.
    """
    table = read_csv(path)
    position = _find_columns(table.header, path)
    image = position["image_id"]
    for _, row in table.rows:
        if row[image].lower() not in ("", "nan"):
            row[image] = file_name(row[image])
    columns = {role: table.header[position[field]] for role, field in ROLES.items()}
    options = TableOptions(UNUSED | columns, views="all", nih=nih, named_in_messages=False)
    known = read_label_table(table, options)
    rows = dict(table.rows)
    labels: dict[str, LabelRow] = {}
    for name, line, values, patient in zip(
        known.images, known.lines, known.matrix, known.patients, strict=True
    ):
        where = f"{path}, line {line}"
        field = {name: rows[line][column] for name, column in position.items()}
        labels[name] = LabelRow(
            _indices(known.labels, values, where),
            patient,
            _parse_follow_up(field["follow_up"], where),
            _parse_age(field["age"], where),
            field["sex"],
            field["view"],
        )
    return labels


def _indices(labels: Sequence[str], values: np.ndarray, where: str) -> tuple[int, ...]:
    """Return the ascending indices into `LABELS` of a row's labels."""
    if MISSING in values:
        raise UserError(f"{where}: {COLUMNS['labels']!r} is empty; complete or delete the row")
    names = [labels[c] for c in np.flatnonzero(values).tolist()]
    for name in names:
        if name not in INDEX:
            raise UserError(
                f"{where}: unknown finding {name!r} in 'Finding Labels'; "
                f"the known ones are {', '.join(LABELS)}"
            )
    return tuple(sorted(INDEX[name] for name in names))


def _find_columns(header: list[str], path: Path) -> dict[str, int]:
    """Return the column of each field of a record."""
    header = [name if RENAMED.get(name) in header else RENAMED.get(name, name) for name in header]
    missing = [name for name in COLUMNS.values() if name not in header]
    if missing:
        raise UserError(
            f"{path}: no column {', '.join(repr(name) for name in missing)} in its first line; "
            "give NIH's Data_Entry_2017 table"
        )
    return {field: header.index(name) for field, name in COLUMNS.items()}


def _parse_follow_up(text: str, where: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise UserError(
            f"{where}: 'Follow-up #' is {text[:40]!r}, not a whole number; correct it"
        ) from None
    if number not in INT32:
        raise UserError(f"{where}: 'Follow-up #' is {text[:40]!r}, too large; correct it")
    return number


def _parse_age(text: str, where: str) -> int:
    age = parse_age(text)
    if age is None:
        raise UserError(
            f"{where}: 'Patient Age' is {text[:40]!r}, not like 58, 058Y, 012M or 003D; correct it"
        )
    return age


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
