"""Predicting many films from files: a stream in constant memory, from decoding to rows."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
import time
import unicodedata
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from agcnn_jax.evaluation.files.predictions import PREFIX
from agcnn_jax.inference.decoding import decode_films
from agcnn_jax.inference.films import DecodedFilm, printable
from agcnn_jax.inference.folder import PredictionFolder, open_folder
from agcnn_jax.inference.model import Model
from agcnn_jax.inference.result import Result
from agcnn_jax.run.calibration import Calibration
from agcnn_jax.runtime.progress import Progress
from agcnn_jax.runtime.storage import reported

OVERLAYS = "overlays"
"""Folder of the pictures, in that of the predictions."""

_EXTENSION = re.compile(r"\.(png|jpe?g|tiff?|dcm|dicom)$", re.IGNORECASE)
_NAME_BYTES = 200
"""Bytes of a film's name that its picture's name keeps; file systems allow 255 in all."""

FILM_COLUMNS = (
    *("Image Index", "path", "width", "height", "distance", "unlike"),
    *("xmin", "ymin", "xmax", "ymax", "overlay"),
)

_SHOWN = 768
"""Longest side of the film in a picture, in pixels."""

_READ_KEYS = (
    *("backbone", "pooling", "mean", "std", "input_size", "local_input"),
    *("dtype", "matmul_precision"),
)
_READ_ATTENTION_KEYS = ("statistic", "tau", "crop_from")
"""The keys of a config that prediction reads, see `make_recipe` and `Model`."""


class Settings(NamedTuple):
    """What a user chooses.

    Attributes:
        rule: of `operating_points.RULES`, by which findings are called positive.
        overlays: draw a picture of each film.
        batch_size: films that the devices predict at a time.
        workers: processes that decode.
    """

    rule: str
    overlays: bool
    batch_size: int
    workers: int


class Summary(NamedTuple):
    """How many films were predicted and refused, of all; `new` of them now, in `seconds`.

    `rate` is films a second without compilation and the first batch, None with no other.
    """

    films: int
    refused: int
    unlike: int
    new: int
    seconds: float
    rate: float | None


class _Batch(NamedTuple):
    """Films in the order of their rows, and what the devices make of those that were decoded."""

    films: list[tuple[str, DecodedFilm | str]]
    outputs: Mapping[str, jax.Array]


def predict_files(model: Model, films: Sequence[str], out: Path, settings: Settings) -> Summary:
    """Predict films, paths, and write their rows to `out`, in their order.

    Films whose rows are there already are not predicted again, see `PredictionFolder`. A film that
    cannot be read becomes a row of errors.csv.

    Raises:
        UserError: the folder holds other predictions, or cannot be written.
    """
    # The same in every process that continues, so that rounding is the same.
    size = min(settings.batch_size, len(films))
    began = time.monotonic()
    identity = {
        "weights": model.digest,
        "calibration": _digest(model.calibration),
        "labels and config": _settings_digest(model),
        "--rule": settings.rule,
        "--overlays": settings.overlays,
    }
    with open_folder(out, identity, columns_of(model), films) as folder:
        if settings.overlays:  # only now, so that nothing is left in a folder that is refused
            with reported(out, "written"):
                (out / OVERLAYS).mkdir(exist_ok=True)
        before = folder.films
        bar = Progress("prediction", len(films), "films", before)
        batches = _predicted(model, films[before:], size, settings, bar)
        with bar, contextlib.closing(batches):
            for batch in batches:
                outputs = jax.device_get(dict(batch.outputs))
                write_rows(folder, model, batch.films, outputs, settings.rule)
                folder.save_if_due()
                # The first batch ran, at least in part, while its program was compiled.
                bar.update(len(batch.films), timed=bar.done > before)
        new, seconds = folder.films - before, time.monotonic() - began
        return Summary(folder.films, folder.refused, folder.unlike, new, seconds, bar.rate())


def _digest(calibration: Calibration | None) -> str | None:
    if calibration is None:
        return None
    features = calibration.features
    text = f"{calibration.branches} {features and (features.threshold, features.mean.tolist())}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _settings_digest(model: Model) -> str:
    """Hash what a prediction depends on beside the weights and the calibration."""
    config = {name: model.config[name] for name in _READ_KEYS}
    attention = {name: model.config["attention"][name] for name in _READ_ATTENTION_KEYS}
    text = json.dumps([model.labels, model.image_size, model.branches, config, attention])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _predicted(
    model: Model, films: Sequence[str], size: int, settings: Settings, bar: Progress
) -> Generator[_Batch, None, None]:
    """Yield batches one late, so that the devices work while rows are written."""
    previous: _Batch | None = None
    for batch in itertools.chain(_batches(model, films, size, settings, bar), [None]):
        if previous is not None:
            yield previous
        previous = batch


def _batches(
    model: Model, films: Sequence[str], size: int, settings: Settings, bar: Progress
) -> Iterator[_Batch]:
    side, compiled = model.image_size, False
    images, part, count = np.zeros((size, side, side), np.uint8), [], 0
    shown = _SHOWN if settings.overlays else 0
    decoded = decode_films(films, side, workers=settings.workers, shown=shown)
    for number, (path, film) in enumerate(zip(films, decoded, strict=True), 1):
        if isinstance(film, DecodedFilm):
            images[count] = film.stored
            count += 1
            film = film._replace(stored=np.empty(0, np.uint8))  # the batch has its pixels
        part.append((path, film))
        # Where nothing can be decoded, rows are written too.
        if count == size or len(part) >= 8 * size or number == len(films):
            outputs: Mapping[str, jax.Array] = {}
            if count:
                with contextlib.nullcontext() if compiled else bar.compiling():
                    outputs = model.predict_batch(images, settings.overlays)
                compiled = True
            yield _Batch(part, outputs)
            # The devices may still read the other one.
            images, part, count = np.zeros_like(images), [], 0


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
) -> None:
    """Write the rows of films, in their order, and pictures of those that are shown.

    Args:
        folder: takes them.
        model: made the outputs.
        films: the path of each, and the film or the reason why it cannot be read.
        outputs: see `Model.predict_batch`; row i is of the i-th film that was decoded.
        rule: see `Settings`.
    """
    decoded = [(path, film) for path, film in films if isinstance(film, DecodedFilm)]
    names = [os.path.basename(printable(path)) for path, _ in decoded]
    results = model.results(names, [film for _, film in decoded], outputs)
    for path, film in films:
        result = film if isinstance(film, str) else next(results)
        if isinstance(result, str):
            folder.refuse(path, result)
            continue
        overlay = None
        if result.film.size:
            overlay = f"{OVERLAYS}/{overlay_name(path, folder.films + 1)}"
            with reported(folder.out, "written"):
                result.show().savefig(folder.out / overlay, dpi=110, pil_kwargs={"quality": 88})
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


def overlay_name(path: str, number: int) -> str:
    """Name the picture of a film: the film's name, then the film's number, which no other has.

    Letters and digits of any script, dots, hyphens and underscores stay; each other character
    becomes an underscore. The column `overlay` of the predictions says which film it shows.
    """
    name = unicodedata.normalize("NFC", os.path.basename(printable(path)))
    stem = _EXTENSION.sub("", name)
    kept = "".join(c if c.isalnum() or c in "-_." else "_" for c in stem)
    # Hidden files, and names that commands take for options, begin with these.
    kept = re.sub(r"^[-.]", "_", kept)
    short = kept.encode()[:_NAME_BYTES].decode(errors="ignore")
    return f"{short}_{number:06d}.jpeg"
