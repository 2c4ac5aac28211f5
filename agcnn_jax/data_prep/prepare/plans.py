"""The plan of a run: inputs, tables and options, checked before anything is written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from agcnn_jax.data.collection import Collection
from agcnn_jax.data.labels import MISSING
from agcnn_jax.data.tables.label_table import LabelTable
from agcnn_jax.data_prep.prepare.shards import Context, Row, Unit

VERSION = "1.0.0"


class Plan(NamedTuple):
    """Everything that a run depends on.

    Attributes:
        name: of the dataset.
        context: what each unit needs.
        tables: kind of table -> its path; None for those that are missing.
        official: image name -> its subset; empty without official lists.
        collection: of the images.
        units: the shards to write.
        images: number of image files; None with archives, whose content is not known yet.
    """

    name: str
    context: Context
    tables: Mapping[str, Path | None]
    official: Mapping[str, str]
    collection: Collection
    units: list[Unit]
    images: int | None

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the inputs and options."""
        described = [self.collection.name, self.collection.provenance, self.collection.synthetic]
        whole = [*described, sorted(self.official.items()), [unit.key for unit in self.units]]
        return hashlib.sha256(json.dumps(whole).encode()).hexdigest()


def make_rows(table: LabelTable, matrix: np.ndarray, follow_ups: Sequence[int]) -> list[Row]:
    """Return what a table says about each of its N images.

    Args:
        table: of the images.
        matrix: 0, 1 or `MISSING`, uint8 `[N, C]`, in the order of the dataset's labels.
        follow_ups: `[N]`.
    """
    # Few rows of the matrix are distinct; equal ones share their tuples, which saves memory.
    codes = [row.tobytes() for row in matrix]
    positive, unknown = (
        {code: tuple(c for c, one in enumerate(code) if one == value) for code in set(codes)}
        for value in (1, MISSING)
    )
    return list(
        map(
            Row,
            [positive[code] for code in codes],
            *(table.patients, follow_ups, table.ages, table.sexes, table.views),
            [unknown[code] for code in codes],
            table.lines,
        )
    )


def scratch_folder(data_dir: Path, name: str) -> Path:
    """Return the folder of the unfinished work for the dataset `name`."""
    return data_dir / f".{name}.partial"


def file_digest(path: Path | None) -> str | None:
    """Return the hex SHA-256 of a file; None for None."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path else None
