"""The rows of predicted films: answers, box, distance and picture of each."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agcnn_jax.evaluation.files.predictions import PREFIX
from agcnn_jax.inference.decoding import DecodedFilm
from agcnn_jax.inference.folder import PredictionFolder, printable
from agcnn_jax.inference.model import Model, film_boxes, film_distances
from agcnn_jax.inference.result import BranchAnswer, NoAnswerError, Result, answers_of
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
        out: where pictures go, of the films that have a preview.
    """
    decoded = [film for _, film in films if isinstance(film, DecodedFilm)]
    sizes = np.array([(film.width, film.height) for film in decoded]).reshape(-1, 2)
    boxes, distances = (
        film_boxes(model, outputs, sizes),
        film_distances(model, outputs, len(decoded)),
    )
    i = 0
    for path, film in films:
        if isinstance(film, str):
            folder.refuse(path, film)
            continue
        logits = {branch: outputs[branch][i] for branch in model.branches}
        try:
            answers = answers_of(logits, model.labels, model.calibration)
        except NoAnswerError as error:
            folder.refuse(path, str(error))
            i += 1
            continue
        box = None if boxes is None else boxes[i].tolist()
        overlay = None
        if film.preview is not None:
            overlay = f"{OVERLAYS}/{overlay_name(path, folder.films + 1)}"
            distance = None if distances is None else float(distances[i])
            picture = _result(model, path, film.preview, answers, outputs, i, distance).show()
            with reported(out, "written"):
                picture.savefig(out / overlay, dpi=110, pil_kwargs={"quality": 88})
        shown = printable(path)
        facts = {
            "Image Index": os.path.basename(shown),
            "path": shown,
            "width": film.width,
            "height": film.height,
            "distance": None if distances is None else float(f"{distances[i]:.4g}"),
            "unlike": None if distances is None else bool(distances[i] > 1),
        }
        _add(folder, path, facts, box, overlay, answers, rule)
        i += 1


def _add(
    folder: PredictionFolder,
    path: str,
    facts: dict[str, Any],
    box: list[int] | None,
    overlay: str | None,
    answers: Mapping[str, BranchAnswer],
    rule: str,
) -> None:
    cells: list[Any] = [*facts.values(), *([None] * 4 if box is None else box), overlay]
    for answer in reversed(list(answers.values())):
        cells += answer.probability.values()
        cells += answer.calibrated.values()
        cells += answer.decision[rule].values()
    row = [_cell(cell) for cell in cells]
    branches = {
        branch: {
            label: {
                "probability": probability,
                "calibrated": answer.calibrated[label],
                "positive": answer.decision[rule][label],
            }
            for label, probability in answer.probability.items()
        }
        for branch, answer in answers.items()
    }
    said = {**facts, "box": box, "overlay": overlay, "branches": branches}
    folder.add(path, row, said, bool(facts["unlike"]))


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    return f"{value:.9g}" if isinstance(value, float) else value


def _result(
    model: Model,
    path: str,
    preview: np.ndarray,
    answers: Mapping[str, BranchAnswer],
    outputs: Mapping[str, np.ndarray],
    i: int,
    distance: float | None,
) -> Result:
    """Make the result to draw, as if the film had the size of its picture."""
    one = {"boxes": outputs["boxes"][i : i + 1]} if "boxes" in outputs else {}
    box = film_boxes(model, one, np.array([preview.shape[::-1]]))
    return Result(
        name=os.path.basename(printable(path)),
        findings=model.findings,
        branches=answers,
        film=preview,
        box=None if box is None else tuple(box[0].tolist()),
        input_heat_map=outputs["heat_maps"][i],
        stored_size=model.image_size,
        distance=distance,
        synthetic=model.lineage.synthetic,
    )


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
