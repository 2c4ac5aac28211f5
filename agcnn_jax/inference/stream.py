"""Predicting many films from files: a stream in constant memory, from decoding to rows."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import itertools
import json
import os
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from agcnn_jax.evaluation.files.predictions import PREFIX
from agcnn_jax.inference.decoding import decode_films
from agcnn_jax.inference.films import DecodedFilm, printable
from agcnn_jax.inference.folder import OVERLAYS, open_folder, overlay_name
from agcnn_jax.inference.limits import Work
from agcnn_jax.inference.model import Model, on_host
from agcnn_jax.inference.result import Result
from agcnn_jax.run.calibration import Calibration
from agcnn_jax.runtime.progress import Progress
from agcnn_jax.runtime.storage import reported

Placed = tuple[int | None, str]
"""A film's path, and the row that it takes in its batch; None for the first that is free."""

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

    `rate` is films a second without compilation and the first batch, None with no other; `limit`
    says what kept it from being higher.
    """

    films: int
    refused: int
    unlike: int
    new: int
    seconds: float
    rate: float | None
    limit: str | None = None


class Rows(Protocol):
    """Takes the rows of films, in their order.

    Attributes:
        next_number: of the film that comes next, from 1; its picture's name ends with it.
    """

    @property
    def next_number(self) -> int:
        """The number of the next film."""

    def add(self, film: str, row: Sequence[Any], answer: Mapping[str, Any], unlike: bool) -> None:
        """Take a film's row of the CSV file, and its object for the other."""

    def refuse(self, film: str, reason: str) -> None:
        """Take why a film cannot be read."""

    def draw(self, name: str, figure: Any) -> None:
        """Write a film's picture."""

    def save_if_due(self) -> None:
        """Save what was taken, at the end of a batch."""


class _Batch(NamedTuple):
    """Films in their order, and what the devices make of those that were decoded.

    `places` are the rows in `outputs` of the latter.
    """

    films: list[tuple[str, DecodedFilm | str]]
    places: list[int]
    outputs: Mapping[str, Any]


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
    with open_folder(out, identity_of(model, settings), columns_of(model), films) as folder:
        if settings.overlays:  # only now, so that nothing is left in a folder that is refused
            with reported(out, "written"):
                (out / OVERLAYS).mkdir(exist_ok=True)
        before = folder.films
        bar = Progress("prediction", len(films), "films", before)
        settings = settings._replace(workers=min(settings.workers, max(len(films) - before, 1)))
        write_predictions(
            model, ((None, film) for film in films[before:]), size, settings, folder, bar
        )
        new, seconds = folder.films - before, time.monotonic() - began
        return Summary(folder.films, folder.refused, folder.unlike, new, seconds, bar.rate())


def identity_of(model: Model, settings: Settings) -> dict[str, Any]:
    """Say what predictions depend on beside the films, by the names of options."""
    return {
        "weights": model.digest,
        "calibration": _digest(model.calibration),
        "labels and config": _settings_digest(model),
        "--rule": settings.rule,
        "--overlays": settings.overlays,
        **model.computed_by,
    }


def write_predictions(
    model: Model,
    films: Iterable[Placed],
    size: int,
    settings: Settings,
    rows: Rows,
    bar: Progress,
) -> str | None:
    """Predict films, in batches of `size`, and give their rows to `rows` in their order.

    Returns:
        What limited it, see `Work.describe`.
    """
    before, work = bar.done, Work()
    batches = _predicted(model, films, size, settings, bar, work)
    with bar, contextlib.closing(batches):
        for batch in batches:
            began = time.perf_counter()
            outputs = on_host(batch.outputs)
            work.results += time.perf_counter() - began
            outputs = {name: values[batch.places] for name, values in outputs.items()}
            write_rows(rows, model, batch.films, outputs, settings.rule)
            rows.save_if_due()
            # The first batch ran, at least in part, while its program was compiled.
            if bar.done == before:
                work.start()
            bar.update(len(batch.films), timed=bar.done > before)
    return work.describe()


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
    model: Model, films: Iterable[Placed], size: int, settings: Settings, bar: Progress, work: Work
) -> Generator[_Batch, None, None]:
    """Yield batches one late, so that the devices work while rows are written."""
    previous: _Batch | None = None
    for batch in itertools.chain(_batches(model, films, size, settings, bar, work), [None]):
        if previous is not None:
            yield previous
        previous = batch


def _batches(
    model: Model, films: Iterable[Placed], size: int, settings: Settings, bar: Progress, work: Work
) -> Iterator[_Batch]:
    # Only JAX compiles; starting an engine takes less than a second.
    side, compiled = model.image_size, bool(model.computed_by)
    images = np.zeros((size, side, side), np.uint8)
    part: list[tuple[str, DecodedFilm | str]] = []
    places: list[int] = []
    given: collections.deque[Placed] = collections.deque()

    def paths() -> Iterator[str]:
        for film in films:
            given.append(film)
            yield film[1]

    def predicted() -> _Batch:
        nonlocal compiled
        outputs: Mapping[str, Any] = {}
        if places:
            began = time.perf_counter()
            with contextlib.nullcontext() if compiled else bar.compiling():
                outputs = model.predict_batch(images, settings.overlays)
            work.results += time.perf_counter() - began
            work.watch(outputs, began)
            compiled = True
        return _Batch(part, places, outputs)

    shown = _SHOWN if settings.overlays else 0
    workers, waiting = settings.workers, time.perf_counter()
    for film in decode_films(paths(), side, workers=workers, shown=shown, work=work):
        work.films += time.perf_counter() - waiting
        wanted, path = given.popleft()
        # Where nothing can be decoded, rows are written too.
        if len(places) == size or len(part) >= 8 * size or wanted in places:
            yield predicted()
            # The devices may still read the other one.
            images, part, places = np.zeros_like(images), [], []
        if isinstance(film, DecodedFilm):
            places.append(len(places) if wanted is None else wanted)
            images[places[-1]] = film.stored
            film = film._replace(stored=np.empty(0, np.uint8))  # the batch has its pixels
        part.append((path, film))
        waiting = time.perf_counter()
    if part:
        yield predicted()


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
    rows: Rows,
    model: Model,
    films: Sequence[tuple[str, DecodedFilm | str]],
    outputs: Mapping[str, np.ndarray],
    rule: str,
) -> None:
    """Write the rows of films, in their order, and pictures of those that are shown.

    Args:
        rows: takes them.
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
            rows.refuse(path, result)
            continue
        overlay = None
        if result.film.size:
            overlay = f"{OVERLAYS}/{overlay_name(path, rows.next_number)}"
            rows.draw(overlay, result.show())
        _add(rows, path, result, overlay, rule)


def _add(rows: Rows, path: str, result: Result, overlay: str | None, rule: str) -> None:
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
    rows.add(path, [_cell(cell) for cell in cells], entry, bool(result.unlike))


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    return f"{value:.9g}" if isinstance(value, float) else value
