"""Labels and patients of scored images, from the table of any collection."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from agcnn_jax.data.collection import NIH, read_collection
from agcnn_jax.data.labels import LABELS, MISSING, parse_age
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
_OPTIONS = TableOptions(
    columns=dict.fromkeys((*CORNERS, *SIDES, "split", "study"), ""),
    views="all",
    named_in_messages=False,
)


@dataclasses.dataclass(frozen=True)
class Labels:
    """The labels of images, and what else their table knows.

    Attributes:
        of_image: per image, its labels.
        patient: per image, its patient; a whole number in ChestX-ray14, in others a text.
        lines: per label, the first line that names it.
        about: of sex, age and view, those that the table has: per image, the text.
        unknown: per image, labels of which the table does not say whether it has them.
        listed: the table lists the labels of each image, so that it has no others. Otherwise labels
            have columns, and one without a column is unknown.
    """

    of_image: dict[str, frozenset[str]]
    patient: dict[str, str]
    lines: dict[str, int]
    about: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    unknown: dict[str, frozenset[str]] = dataclasses.field(default_factory=dict)
    listed: bool = True

    def matrix(self, image_ids: Sequence[str], names: Sequence[str]) -> np.ndarray:
        """Return 0, 1 or `MISSING` for each of N images and C labels, uint8 `[N, C]`."""
        shape = len(image_ids), len(names)
        matrix = np.zeros(shape, np.uint8)
        for c, name in enumerate(names):
            matrix[:, c] = [name in self.of_image[image] for image in image_ids]
            if not self.listed and name not in self.lines:
                matrix[:, c] = MISSING
            elif self.unknown:
                unknown = [name in self.unknown.get(image, ()) for image in image_ids]
                matrix[unknown, c] = MISSING
        return matrix

    def groups(self, image_ids: Sequence[str]) -> dict[str, np.ndarray]:
        """Group images by sex, age and view, as far as the table knows them; see `image_groups`.

        An age that cannot be read is unknown.
        """
        columns = {
            name: [column[image] for image in image_ids] for name, column in self.about.items()
        }
        ages = [parse_age(text) for text in columns.get("age", ())]
        return image_groups(
            [-1 if age is None else age for age in ages] if "age" in columns else None,
            columns.get("sex"),
            columns.get("view"),
        )


def read_labels(source: str | Path | CsvTable) -> Labels:
    """Read the labels of images, such as NIH's `Data_Entry_2017.csv`, gzipped or not.

    Labels need not be ChestX-ray14's. A blank or uncertain cell of a column of labels is unknown.

    Raises:
        UserError: if the file is unusable or not such a table, or a row would make a score wrong;
            the message names file, line and value.
    """
    table = read_csv(source)
    nih = read_collection(Path(table.path).parent).name == NIH.name
    options = dataclasses.replace(_OPTIONS, nih=nih)
    roles = find_roles(table, options)
    for role, header in (("image", IMAGE_COLUMN), ("patient", "Patient ID")):
        if role not in roles:
            table.column(header)  # says that there is none, and which there are
    known = read_label_table(table, options)
    listed = "labels" in known.roles or "finding" in known.roles

    def names(value: int) -> dict[str, frozenset[str]]:
        # Few rows of the matrix are distinct.
        rows, of_image = np.unique(known.matrix == value, axis=0, return_inverse=True)
        sets = [frozenset(np.array(known.labels, object)[row]) for row in rows]
        return dict(zip(known.images, [sets[i] for i in of_image.ravel()], strict=True))

    about = {"sex": known.sexes, "view": known.views}
    about["age"] = tuple("" if age < 0 else str(age) for age in known.ages)
    return Labels(
        of_image=names(1),
        patient=dict(zip(known.images, known.patients, strict=True)),
        lines=_first_lines(known, listed),
        about={
            group: dict(zip(known.images, cells, strict=True))
            for group, cells in about.items()
            if group in known.roles or (group == "view" and "frontal" in known.roles)
        },
        unknown=names(MISSING) if (known.matrix == MISSING).any() else {},
        listed=listed,
    )


def _first_lines(known: LabelTable, listed: bool) -> dict[str, int]:
    """Return the first line that names each label: the header, or an image that has it."""
    first = (known.matrix == 1).argmax(axis=0)
    return {label: known.lines[first[c]] if listed else 1 for c, label in enumerate(known.labels)}


def check_spelling(labels: Labels, path: str | Path, predicted: Collection[str]) -> None:
    """Refuse labels that may be misspelt, since their images would count as negative.

    A label that resembles one of ChestX-ray14's or one that is predicted must be predicted, and
    that one too. A column of its own makes no image negative.
    """
    if not labels.listed:
        return
    known = dict.fromkeys((*LABELS, *predicted))
    synonyms = read_synonyms()
    for name, line in labels.lines.items():
        if name in LABELS:
            continue
        others = {other.lower(): other for other in known if other != name}
        similar = difflib.get_close_matches(name.lower(), others, 1, _SIMILAR)
        meant = others[similar[0]] if similar else None
        if meant is None or (name in predicted and meant in predicted):
            continue
        if relation(name, meant, synonyms) != "never":
            raise UserError(
                f"{path}, line {line}: unknown finding {name!r}; did you mean {meant!r}?"
            )
