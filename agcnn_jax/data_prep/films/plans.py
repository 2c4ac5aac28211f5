"""The plan of preparing films that a table of labels names."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from agcnn_jax.data.collection import NIH, Collection, read_collection
from agcnn_jax.data.tables.label_table import LabelTable
from agcnn_jax.data.tables.options import TableOptions
from agcnn_jax.data_prep.films.match import Match
from agcnn_jax.data_prep.prepare.plans import Plan, file_digest, make_rows, scratch_folder
from agcnn_jax.data_prep.prepare.shards import (
    UNREADABLE,
    Context,
    DecodedImage,
    Input,
    Problem,
    split_units,
)
from agcnn_jax.inference.decoding import decode_path

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
    rows = make_rows(table, table.matrix, [0] * len(table.images))
    found = match.row_of.items()
    names = json.dumps([(film, table.images[row]) for film, row in sorted(found)]).encode()
    settings = [FORMAT, image_size, file_digest(table.path), dataclasses.asdict(options)]
    settings.append(hashlib.sha256(names).hexdigest())
    named = [*found, *((table.images[row], row) for row in match.absent)]
    return Plan(
        NAME,
        Context(
            read_films,
            images,
            scratch_folder(data_dir, NAME),
            table.path,
            table.labels,
            {film: rows[row] for film, row in found},
            {film: table.boxes.get(table.images[row], ()) for film, row in found if table.boxes},
            None,
            image_size,
        ),
        {"labels": table.path},
        {image: table.splits[row] for image, row in named if table.splits[row]},
        _collection(images, collection),
        split_units([film for film in films if film.path in match.row_of], json.dumps(settings)),
        len(found),
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


def _collection(images: Path, name: str) -> Collection:
    """Return what a `dataset.json` near the films says, under another name."""
    found = read_collection(images)
    return dataclasses.replace(
        found, name=name, provenance=name if found is NIH else found.provenance
    )
