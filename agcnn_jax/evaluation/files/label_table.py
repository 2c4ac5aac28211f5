"""NIH's table of labels, from any data set that has its columns."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from agcnn_jax.data.collection import NIH, read_collection
from agcnn_jax.data.labels import LABELS, NO_FINDING, parse_age
from agcnn_jax.data.patients import nih_name, read_patients
from agcnn_jax.data.text import plain
from agcnn_jax.evaluation.files.csv_table import CsvTable, read_csv
from agcnn_jax.metrics.subgroups import image_groups
from agcnn_jax.runtime.errors import UserError

# Names more similar than this may be a misspelling ("Efusion": 0.93, "Infiltrate": 0.82).
_SIMILAR = 0.8
# What images are grouped by, and the names of its column; the first that the table has counts.
_GROUPS = {
    "sex": ("Patient Gender", "Patient Sex"),
    "age": ("Patient Age",),
    "view": ("View Position",),
}


@dataclasses.dataclass(frozen=True)
class Labels:
    """The labels of images, and what else their table knows.

    Attributes:
        of_image: per image, its labels.
        patient: per image, its patient; a whole number in ChestX-ray14, in others a text.
        lines: per label, the first line that names it.
        about: of sex, age and view, those that the table has: per image, the text.
    """

    of_image: dict[str, frozenset[str]]
    patient: dict[str, str]
    lines: dict[str, int]
    about: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)

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
    """Read NIH's `Data_Entry_2017.csv` or `Data_Entry_2017_v2020.csv`, gzipped or not.

    Labels need not be ChestX-ray14's, but each must have one spelling.

    Raises:
        UserError: if the file is unusable or not such a table, or a row would make a score wrong;
            the message names file, line and value.
    """
    table = read_csv(source)
    path, header = table.path, table.header
    finding, patient = map(table.column, ("Finding Labels", "Patient ID"))
    image, image_ids = table.image_column(), table.image_ids()
    labels: list[frozenset[str]] = []
    lines: dict[str, int] = {}
    spelling = {plain(name): name for name in LABELS}
    for line, row in table.rows:
        where = f"{path}, line {line}"
        for column in (image, patient):
            # pandas writes "nan" for what is missing in a column of text.
            if row[column].lower() in ("", "nan"):
                problem = repr(row[column]) if row[column] else "empty"
                raise UserError(
                    f"{where}: {header[column]!r} is {problem}; complete or delete the row"
                )
        parts = [part.strip() for part in row[finding].split("|")]
        for name in parts:
            if not name:
                raise UserError(f"{where}: the column {header[finding]!r} has an empty label")
            if name in lines:
                continue
            if (usual := spelling.setdefault(plain(name), name)) != name:
                raise UserError(
                    f"{where}: {name!r} in {header[finding]!r}; write {usual!r}, as elsewhere"
                )
            lines[name] = line
        if NO_FINDING in parts and len(set(parts)) > 1:
            raise UserError(
                f"{where}: {row[finding]!r} is both a finding and none; correct the row"
            )
        labels.append(frozenset(parts))

    def by_image(column: int) -> dict[str, str]:
        return dict(zip(image_ids, (row[column] for _, row in table.rows), strict=True))

    nih = read_collection(Path(path).parent).name == NIH.name and all(map(nih_name, image_ids))
    patients = read_patients(
        [row[patient] for _, row in table.rows],
        [line for line, _ in table.rows],
        path,
        header[patient],
        nih,
    )

    plain_header = {plain(name): name for name in header}
    about = {
        group: by_image(table.column(plain_header[plain(name)]))
        for group, names in _GROUPS.items()
        for name in names[::-1]
        if plain(name) in plain_header
    }
    return Labels(
        dict(zip(image_ids, labels, strict=True)),
        dict(zip(image_ids, patients, strict=True)),
        lines,
        about,
    )


def check_spelling(labels: Labels, path: str | Path, predicted: Collection[str]) -> None:
    """Refuse labels that may be misspelt, since their images would count as negative.

    A label outside ChestX-ray14 is accepted only if the predictions have a column for it. If it
    resembles one of ChestX-ray14's, they must have a column for that one too.
    """
    for name, line in labels.lines.items():
        if name in LABELS:
            continue
        similar = difflib.get_close_matches(name.lower(), [x.lower() for x in LABELS], 1, _SIMILAR)
        meant = next((x for x in LABELS if [x.lower()] == similar), None)
        if name in predicted and (meant is None or meant in predicted):
            continue
        advice = f"the known ones are {', '.join(LABELS)}, and those that are predicted"
        if meant is not None:
            advice = f"did you mean {meant!r}?"
        raise UserError(f"{path}, line {line}: unknown finding {name!r}; {advice}")
