"""The rows of predicted films, and their pictures."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agcnn_jax.evaluation.files.predictions import PREFIX
from agcnn_jax.inference.films import DecodedFilm, printable
from agcnn_jax.inference.folder import PredictionFolder
from agcnn_jax.inference.model import Model
from agcnn_jax.inference.result import Result
from agcnn_jax.runtime.storage import reported

OVERLAYS = "overlays"
"""Folder of the pictures, in that of the predictions."""

_EXTENSION = re.compile(r"\.(png|jpe?g|tiff?|dcm|dicom)$", re.IGNORECASE)
_NAME_BYTES = 200
"""Of a film's name in its picture's; file systems allow 255 bytes."""

FILM_COLUMNS = (
    *("Image Index", "path", "width", "height", "distance", "unlike"),
    *("xmin", "ymin", "xmax", "ymax", "overlay"),
)


def columns_of(model: Model) -> tuple[str, ...]:
    """Name the columns: those of the last branch as in other files of predictions."""
    last = model.branches[-1]
    kinds = (PREFIX, "calibrated_", "positive_")
    return (
        *FILM_COLUMNS,
        *(
            f"{'' if branch == last else f'{branch}_'}{kind}{label}"
            for branch in reversed(model.branches)
            for kind in kinds
            for label in model.labels
            if label
        ),
    )


def write_rows(
    folder: PredictionFolder,
    model: Model,
    films: Sequence[tuple[str, DecodedFilm | str]],
    outputs: Mapping[str, np.ndarray],
    rule: str,
    out: Path,
) -> None:
    """Write the rows of films, in their order.

    Args:
        folder: writes them.
        model: made the outputs.
        films: the path of each, and the film or the reason why it cannot be read.
        outputs: see `Model.predict_batch`; row i is of the i-th film that was decoded.
        rule: of `operating_points.RULES`.
        out: where pictures go, of the films that are shown.
    """
    decoded = [(path, film) for path, film in films if isinstance(film, DecodedFilm)]
    names = [_name(path) for path, _ in decoded]
    results = model.results(names, [film for _, film in decoded], outputs)
    for path, film in films:
        result = film if isinstance(film, str) else next(results)
        if isinstance(result, str):
            folder.refuse(path, result)
            continue
        overlay = None
        if result.film.size:
            overlay = f"{OVERLAYS}/{overlay_name(path, folder.films + 1)}"
            with reported(out, "written"):
                result.show().savefig(out / overlay, dpi=110, pil_kwargs={"quality": 88})
        _add(folder, path, result, overlay, rule)


def _add(
    folder: PredictionFolder, path: str, result: Result, overlay: str | None, rule: str
) -> None:
    facts = {
        "Image Index": result.name,
        "path": printable(path),
        "width": result.width,
        "height": result.height,
        "distance": None if result.distance is None else float(f"{result.distance:.4g}"),
        "unlike": result.unlike,
    }
    cells: list[Any] = [*facts.values(), *(result.box or [None] * 4), overlay]
    for answer in reversed(list(result.branches.values())):
        cells += answer.probability.values()
        cells += answer.calibrated.values()
        cells += answer.decision[rule].values()
    branches = {
        branch: {
            label: {
                "probability": probability,
                "calibrated": answer.calibrated[label],
                "positive": answer.decision[rule][label],
            }
            for label, probability in answer.probability.items()
        }
        for branch, answer in result.branches.items()
    }
    entry = {**facts, "box": result.box, "overlay": overlay, "branches": branches}
    folder.add(path, [_cell(cell) for cell in cells], entry, bool(result.unlike))


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    return f"{value:.9g}" if isinstance(value, float) else value


def _name(path: str) -> str:
    return os.path.basename(printable(path))


def overlay_name(path: str, number: int) -> str:
    """Name the picture of a film: the film's name, then the film's number, which no other has.

    Letters and digits of any script, dots, hyphens and underscores stay; each other character
    becomes an underscore. The column `overlay` of the predictions says which film it shows.
    """
    name = unicodedata.normalize("NFC", _name(path))
    stem = _EXTENSION.sub("", name)
    kept = "".join(c if c.isalnum() or c in "-_." else "_" for c in stem)
    # Hidden files, and names that commands take for options, begin with these.
    kept = re.sub(r"^[-.]", "_", kept)
    short = kept.encode()[:_NAME_BYTES].decode(errors="ignore")
    return f"{short}_{number:06d}.jpeg"
