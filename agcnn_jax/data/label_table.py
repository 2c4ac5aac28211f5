"""A table of labels (stand-in for the reader that is being written)."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from agcnn_jax.data.boxes import Box
from agcnn_jax.data.labels import FINDINGS, MISSING, NO_FINDING
from agcnn_jax.data.table_options import TableOptions
from agcnn_jax.runtime.errors import UserError


@dataclasses.dataclass(frozen=True)
class Counts:
    """The cells of one label."""

    positives: int
    negatives: int
    uncertain: int
    blank: int


@dataclasses.dataclass(frozen=True, eq=False)
class LabelTable:
    """The labels of N films, in the order of the file, and what else their table knows."""

    path: Path
    labels: tuple[str, ...]
    findings: tuple[str, ...]
    images: tuple[str, ...]
    lines: tuple[int, ...]
    matrix: np.ndarray
    patients: tuple[str, ...]
    studies: tuple[str, ...]
    views: tuple[str, ...]
    sexes: tuple[str, ...]
    splits: tuple[str, ...]
    ages: tuple[int, ...]
    boxes: Mapping[str, tuple[Box, ...]]
    counts: Mapping[str, Counts]
    roles: Mapping[str, str]
    taken: tuple[str, ...]
    left_out: tuple[str, ...]
    notices: tuple[str, ...]
    laterals: tuple[str, ...] = ()
    """Images of the file that are left out by their view."""


_ROLES = {
    "Image Index": "image",
    "Finding Labels": "labels",
    "Patient ID": "patient",
    "Patient Age": "age",
    "Patient Gender": "sex",
    "View Position": "view",
    "split": "split",
    **{name: name for name in ("image", "patient", "view", "xmin", "ymin", "xmax", "ymax")},
}


def read_label_table(path: Path, options: TableOptions) -> LabelTable:
    """Read a column a finding, or lists with `|`; a box, if any, is of the first finding."""
    with open(path, newline="") as file:
        header, *rows = csv.reader(file)
    chosen = {header: role for role, header in options.columns.items()}
    roles = {(chosen.get(name) or _ROLES.get(name, "")): i for i, name in enumerate(header)}
    roles.pop("", None)
    if "patient" not in roles and not options.one_patient_per_film:
        raise UserError(f"{path}, line 1: no column of patients; name it with --patient_column")

    def column(role: str) -> list[str]:
        return [row[roles[role]] if role in roles else "" for row in rows]

    values: dict[str, list[int]] = {}
    if "labels" in roles:
        lists = [set(cell.split("|")) for cell in column("labels")]
        for name in (*FINDINGS, NO_FINDING):
            values[name] = [int(name in one) for one in lists]
    else:
        known = {"1": 1, "0": 0}
        for i, name in enumerate(header):
            if i not in roles.values() and name != "Follow-up #":
                values[name] = [known.get(row[i], MISSING) for row in rows]
    labels = [name for name in (*FINDINGS, *values) if name in values and name != NO_FINDING]
    labels = list(dict.fromkeys(labels)) + [NO_FINDING] * (NO_FINDING in values)
    frontal = [view != "LATERAL" or options.views == "all" for view in column("view")]
    kept = [i for i, one in enumerate(frontal) if one]
    images = column("image")

    def take(items: list[str]) -> tuple[str, ...]:
        return tuple(items[i] for i in kept)

    corners = [column(name) for name in ("xmin", "ymin", "xmax", "ymax")]
    return LabelTable(
        path=path,
        labels=tuple(labels),
        findings=tuple(name for name in labels if name != NO_FINDING),
        images=take(images),
        lines=tuple(i + 2 for i in kept),
        matrix=np.array([[values[name][i] for name in labels] for i in kept], np.uint8),
        patients=take(column("patient") if "patient" in roles else images),
        studies=take(column("study")),
        views=take(column("view")),
        sexes=take(column("sex")),
        splits=take(column("split")),
        ages=tuple(int(age) if age else -1 for age in take(column("age"))),
        boxes={
            images[i]: (Box(0, *(float(corner[i]) for corner in corners)),)
            for i in kept
            if corners[0][i]
        },
        counts={
            name: Counts(v.count(1), v.count(0), 0, v.count(MISSING)) for name, v in values.items()
        },
        roles={role: header[i] for role, i in roles.items()},
        taken=tuple(values),
        left_out=(),
        notices=(f"{len(rows) - len(kept)} films are lateral",) * (len(kept) < len(rows)),
        laterals=tuple(image for image, one in zip(images, frontal, strict=True) if not one),
    )
