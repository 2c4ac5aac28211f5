"""Reading NIH's tables: both editions of the label csv, and the box list."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from agcnn_jax.data.boxes import Box
from agcnn_jax.data.labels import FINDINGS, LABELS, NO_FINDING, parse_age
from agcnn_jax.data.patients import nih_name, read_patients
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
            name, a number beyond int32 or patient ids that `read_patients` refuses, or has two
            different rows for one image; the message names the file and the line.
    """
    rows = _rows(path)
    _, header = next(rows, (0, []))
    position = _find_columns(header, path)
    fields: list[dict[str, str]] = []
    lines: list[int] = []
    for line, row in rows:
        where = f"{path}, line {line}"
        if len(row) <= max(position.values()):
            raise UserError(f"{where}: only {len(row)} columns; download the file again")
        field = {name: row[column] for name, column in position.items()}
        for name in ("image_id", "patient_id"):
            if field[name].lower() in ("", "nan"):
                problem = repr(field[name]) if field[name] else "empty"
                raise UserError(
                    f"{where}: {COLUMNS[name]!r} is {problem}; complete or delete the row"
                )
        field["image_id"] = file_name(field["image_id"])
        fields.append(field)
        lines.append(line)
    if not fields:
        raise UserError(f"{path}: no rows below the header; download the file again")
    nih = nih and all(nih_name(field["image_id"]) for field in fields)
    ids = [field["patient_id"] for field in fields]
    patients = read_patients(ids, lines, path, COLUMNS["patient_id"], nih)
    return _label_rows(path, lines, fields, patients)


def _label_rows(
    path: Path, lines: list[int], fields: list[dict[str, str]], patients: list[str]
) -> dict[str, LabelRow]:
    """Parse the fields of each line into the rows of the images."""
    table: dict[str, LabelRow] = {}
    first: dict[str, int] = {}
    parsed: dict[str, tuple[int, ...]] = {}  # few label sets are distinct
    for line, field, patient in zip(lines, fields, patients, strict=True):
        where = f"{path}, line {line}"
        names = field["labels"]
        if names not in parsed:
            parsed[names] = _parse_labels(names, where)
        entry = LabelRow(
            parsed[names],
            patient,
            _parse_follow_up(field["follow_up"], where),
            _parse_age(field["age"], where),
            field["sex"],
            field["view"],
        )
        image_id = field["image_id"]
        if table.setdefault(image_id, entry) != entry:
            raise UserError(
                f"{where}: {image_id} is also on line {first[image_id]} with other values; "
                "keep the right one"
            )
        first.setdefault(image_id, line)
    return table


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a table; say on stderr if it has other delimiters than commas."""
    table = read_delimited(path)
    if table.note:
        say(table.note)
    return table.rows()


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


def _parse_labels(text: str, where: str) -> tuple[int, ...]:
    names = [name.strip() for name in text.split("|")]
    for name in names:
        if name not in INDEX:
            raise UserError(
                f"{where}: unknown finding {name!r} in 'Finding Labels'; "
                f"the known ones are {', '.join(LABELS)}"
            )
    if NO_FINDING in names and len(set(names)) > 1:
        raise UserError(f"{where}: {text!r} combines a finding with 'No Finding'; correct the row")
    return tuple(sorted({INDEX[name] for name in names}))


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
    rows = _rows(path)
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
