"""The plan of preparing films that a table of labels names."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from agcnn_jax.data.collection import NIH, Collection, read_collection
from agcnn_jax.data.labels import MISSING
from agcnn_jax.data.tables.label_table import LabelTable
from agcnn_jax.data.tables.options import TableOptions
from agcnn_jax.inference.decoding import decode_path
from data_prep.films.match import Match
from data_prep.prepare.plans import Plan, file_digest, scratch_folder
from data_prep.prepare.shards import (
    UNREADABLE,
    Context,
    DecodedImage,
    Input,
    Problem,
    Row,
    split_units,
)

NAME = "films"
# Part of every unit's key. Increase it when the same inputs would give different records.
FORMAT = 1


def make_plan(
    images: Path,
    data_dir: Path,
    table: LabelTable,
    options: TableOptions,
    match: Match,
    films: Sequence[Input],
    *,
    collection: str,
    image_size: int,
) -> Plan:
    """Plan the records of all films that have a row; writes nothing.

    Args:
        images: folder of the films.
        data_dir: folder of the dataset.
        table: what is known of the films.
        options: that the table was read with.
        match: from `match_films`.
        films: from `list_films`.
        collection: name of the set of films.
        image_size: side of the stored images in pixels.

    Raises:
        UserError: a `dataset.json` beside the films is malformed.
    """
    rows = {film: _row(table, row) for film, row in match.row_of.items()}
    name_of = {film: table.images[row] for film, row in match.row_of.items()}
    film_of = {row: film for film, row in match.row_of.items()}
    settings = [FORMAT, image_size, file_digest(table.path), dataclasses.asdict(options)]
    names = json.dumps(sorted(name_of.items())).encode()
    return Plan(
        NAME,
        Context(
            read_films,
            images,
            scratch_folder(data_dir, NAME),
            table.path,
            table.labels,
            rows,
            {film: table.boxes[name] for film, name in name_of.items() if name in table.boxes},
            None,
            image_size,
        ),
        {"labels": table.path},
        table.findings,
        {
            film_of.get(row, table.images[row]): subset
            for row, subset in enumerate(table.splits)
            if subset
        },
        _collection(images, collection),
        split_units(
            [film for film in films if film.path in rows],
            json.dumps([*settings, hashlib.sha256(names).hexdigest()]),
        ),
        len(rows),
    )


def read_films(
    inputs: Sequence[Input], context: Context
) -> Iterator[tuple[str, str, DecodedImage | Problem]]:
    """Yield the path of each film, twice, and its pixels as `agcnn_jax.predict` reads them."""
    for item in inputs:
        with warnings.catch_warnings(action="ignore"):
            film = decode_path(os.path.join(context.folder, item.path), context.image_size, 0)
        if isinstance(film, str):
            yield item.path, item.path, Problem(UNREADABLE, film)
        else:
            yield item.path, item.path, DecodedImage(film.stored, film.width, film.height)


def _row(table: LabelTable, row: int) -> Row:
    values = table.matrix[row]
    return Row(
        labels=tuple(np.flatnonzero(values == 1).tolist()),
        patient_id=table.patients[row],
        follow_up=0,
        age=table.ages[row],
        sex=table.sexes[row],
        view=table.views[row],
        unknown=tuple(np.flatnonzero(values == MISSING).tolist()),
        line=table.lines[row],
    )


def _collection(images: Path, name: str) -> Collection:
    """Return what a `dataset.json` near the films says, under another name."""
    found = read_collection(images)
    return dataclasses.replace(
        found, name=name, provenance=name if found is NIH else found.provenance
    )
