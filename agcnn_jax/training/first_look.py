"""A picture of one validation film after the first epoch: what the global branch attends to."""

from __future__ import annotations

import dataclasses

import cv2
import jax
import numpy as np

from agcnn_jax.attention.attend import Attention
from agcnn_jax.data.labels import MISSING
from agcnn_jax.data.pipeline import read_batch
from agcnn_jax.data.records import Records
from agcnn_jax.models.agcnn import Variables, apply_branch
from agcnn_jax.run.run import Run
from agcnn_jax.runtime.processes import announce, from_primary
from agcnn_jax.runtime.storage import reported, write_bytes
from agcnn_jax.training.inputs import attend_inputs, window_inputs

FILE = "first_look.png"
SIDE = 448
"""Of the film and of the heat map beside it, in pixels of the picture."""

_BOX = (233, 180, 86)  # blue, green, red
_CAPTION = 28  # height in pixels


def first_look(run: Run, variables: Variables) -> None:
    """Write `first_look.png` into the workdir, and print where it is.

    It shows the first validation film that has a finding, else the first one; on its right with
    the heat map. The box is the attended region (Section III-B). Only the primary process computes
    and writes, but all call this. `variables` include the global branch. `UserError` if the file
    cannot be written.
    """
    from_primary(lambda: _write_first_look(run, variables))


def _write_first_look(run: Run, variables: Variables) -> None:
    records, indices = run.records, run.split.validation
    film = indices[[first_ill(records, indices)]]
    image = read_batch(records.images_and_labels(), film)["image"]
    # Where no crop is read, the attended region is shown nevertheless.
    recipe = dataclasses.replace(run.recipe, local_input="crop", crop_from="input")

    @jax.jit
    def attend_centre(variables: Variables, image: jax.Array) -> tuple[jax.Array, Attention]:
        inputs = window_inputs(image, recipe)
        output, _ = apply_branch(recipe.model, variables, "global", inputs.images, train=False)
        return inputs.images, attend_inputs(inputs, output.feature_map, recipe)

    images, attention = jax.device_get(attend_centre(jax.device_get(variables), image))
    name = str(records.image_ids[film[0]])
    caption = f"{name}: {findings_of(records, film[0])}; {records.provenance}"
    picture = draw(images[0], attention.heat_map[0], attention.boxes[0], caption)
    path = run.workdir / FILE
    with reported(path, "written"):
        write_bytes(path, cv2.imencode(".png", picture)[1].tobytes())
    announce(f"{path}: heat map of validation film {name} after the first epoch")


def first_ill(records: Records, indices: np.ndarray) -> int:
    """Return the place in `indices` of the first record known to have a finding; 0 without any."""
    labels = records.label_matrix[indices][:, records.finding_columns]
    return int(np.argmax((labels == 1).any(axis=1)))


def findings_of(records: Records, index: int) -> str:
    """Name the findings that a record is known to have."""
    labels = records.label_matrix[index, records.finding_columns]
    none = "no known finding" if (labels == MISSING).any() else "no finding"
    return ", ".join(np.array(records.findings)[labels == 1]) or none


def draw(film: np.ndarray, heat_map: np.ndarray, box: np.ndarray, caption: str) -> np.ndarray:
    """Draw a film, the same under its heat map, the box on both, and a line of text below.

    Args:
        film: gray levels `[s, s]` in 0..255.
        heat_map: `[s, s]` in 0..1.
        box: `[4]`, `xmin, ymin, xmax, ymax` in pixels of the film, half-open.
        caption: characters beyond ASCII become question marks.

    Returns:
        uint8 `[SIDE + 28, 2 * SIDE, 3]`: blue, green, red, as OpenCV takes them.
    """

    def enlarged(image: np.ndarray) -> np.ndarray:
        return cv2.resize(np.round(image).astype(np.uint8), (SIDE, SIDE))

    gray = cv2.cvtColor(enlarged(film), cv2.COLOR_GRAY2BGR)
    colours = cv2.applyColorMap(enlarged(255 * heat_map), cv2.COLORMAP_INFERNO)
    xmin, ymin, xmax, ymax = (int(edge * SIDE / len(film)) for edge in box)
    tiles = [gray, cv2.addWeighted(gray, 0.5, colours, 0.5, 0)]
    for tile in tiles:
        cv2.rectangle(tile, (xmin, ymin), (xmax - 1, ymax - 1), _BOX, 2)
    text = np.zeros((_CAPTION, 2 * SIDE, 3), np.uint8)
    words = caption.encode("ascii", "replace").decode()
    white = (255, 255, 255)
    cv2.putText(text, words, (6, 19), cv2.FONT_HERSHEY_SIMPLEX, 0.5, white, 1, cv2.LINE_AA)
    return np.vstack([np.hstack(tiles), text])
