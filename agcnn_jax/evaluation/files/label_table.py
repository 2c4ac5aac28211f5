"""Labels and patients of scored images, from the table of any collection."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from agcnn_jax.data.collection import NIH, read_collection
from agcnn_jax.data.labels import LABELS
from agcnn_jax.data.tables.csv_table import IMAGE_COLUMN, CsvTable, read_csv
from agcnn_jax.data.tables.label_table import LabelTable, read_label_table
from agcnn_jax.data.tables.options import TableOptions
from agcnn_jax.data.tables.roles import CORNERS, SIDES, find_roles
from agcnn_jax.data.tables.synonyms import read_synonyms, relation
from agcnn_jax.metrics.subgroups import image_groups
from agcnn_jax.runtime.errors import UserError

# Names more similar than this may be a misspelling ("Efusion": 0.93, "Infiltrate": 0.82).
_SIMILAR = 0.8
# Predictions say which images are scored, and boxes and splits of the table have no part in that.
_UNUSED = dict.fromkeys((*CORNERS, *SIDES, "split", "study"), "")


def read_labels(source: str | Path | CsvTable) -> LabelTable:
    """Read the labels of images, such as NIH's `Data_Entry_2017.csv`, gzipped or not.

    Labels need not be ChestX-ray14's. A blank or uncertain cell of a column of labels is missing.

    Raises:
        UserError: if the file is unusable or not such a table, or a row would make a score wrong;
            the message names file, line and value.
    """
    table = read_csv(source)
    nih = read_collection(Path(table.path).parent).name == NIH.name
    options = TableOptions(_UNUSED, views="all", nih=nih)
    roles = find_roles(table, options)
    for role, header in (("image", IMAGE_COLUMN), ("patient", "Patient ID")):
        if role not in roles:
            table.column(header)  # says that there is none, and which there are
    return read_label_table(table, options)


def rows_of(table: LabelTable, image_ids: Sequence[str]) -> list[int]:
    """Return the rows of images `[N]`, all of which the table has."""
    row_of = {image: row for row, image in enumerate(table.images)}
    return [row_of[image] for image in image_ids]


def groups_of(table: LabelTable, rows: Sequence[int]) -> dict[str, np.ndarray]:
    """Group the images of rows `[N]` by sex, age and view, as far as the table knows them.

    See `image_groups`. An age that cannot be read is unknown.
    """
    known = table.roles
    return image_groups(
        [table.ages[row] for row in rows] if "age" in known else None,
        [table.sexes[row] for row in rows] if "sex" in known else None,
        [table.views[row] for row in rows] if {"view", "frontal"} & known.keys() else None,
    )


def check_spelling(table: LabelTable, predicted: Collection[str]) -> None:
    """Refuse labels that may be misspelt, since their images would count as negative.

    A label that resembles one of ChestX-ray14's or one that is predicted must be predicted, and
    that one too. A column of its own makes no image negative.
    """
    if not table.listed:
        return
    known = dict.fromkeys((*LABELS, *predicted))
    synonyms = read_synonyms()
    for name, column in zip(table.labels, table.matrix.T, strict=True):
        if name in LABELS:
            continue
        others = {other.lower(): other for other in known if other != name}
        similar = difflib.get_close_matches(name.lower(), others, 1, _SIMILAR)
        meant = others[similar[0]] if similar else None
        if meant is None or (name in predicted and meant in predicted):
            continue
        if relation(name, meant, synonyms) != "never":
            line = table.lines[int((column == 1).argmax())]
            raise UserError(
                f"{table.path}, line {line}: unknown finding {name!r}; did you mean {meant!r}?"
            )
