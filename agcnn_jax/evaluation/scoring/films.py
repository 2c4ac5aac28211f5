"""Example films for the report: best catches and worst misses, with the regions attended to."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from agcnn_jax.attention.attend import Attention
from agcnn_jax.data.labels import MISSING
from agcnn_jax.data.pipeline import read_batch
from agcnn_jax.evaluation.files.table import plain_name
from agcnn_jax.evaluation.scoring.localisation import input_boxes
from agcnn_jax.evaluation.scoring.scored import ScoredImages
from agcnn_jax.models.agcnn import Variables, apply_branch
from agcnn_jax.run.run import Run
from agcnn_jax.training.inputs import attend_inputs, window_inputs

CATCHES, MISSES = 4, 4
"""Number of images of each kind in the report."""

Box = tuple[float, float, float, float]


class Answer(NamedTuple):
    """A finding's probability for one image, and whether its labels name the finding."""

    finding: str
    probability: float
    present: bool


@dataclasses.dataclass(frozen=True)
class Films:
    """Images with the regions that the model attended to; boxes are half-open pixels of the image.

    Attributes:
        images: uint8 `[n, S, S]`.
        heat_maps: float `[n, S, S]`, 0 to 1.
        masks: bool `[n, S, S]`: the heat map above the threshold.
        boxes: int `[n, 4]`: xmin, ymin, xmax, ymax of the crop, such as the attended region.
        crops: uint8 `[n, S, S]`: what is inside, enlarged.
        kinds: what each image is an example of, such as "catches".
        titles: n titles, such as the finding that it is an example of, and the image's name.
        answers: per image, all findings with a known label by falling probability.
        branch: whose probabilities these are.
        read: a local branch reads the crops.
        true_boxes: per image, its annotated (finding, box) pairs; None without annotations.
    """

    images: np.ndarray
    heat_maps: np.ndarray
    masks: np.ndarray
    boxes: np.ndarray
    crops: np.ndarray
    kinds: Sequence[str]
    titles: Sequence[str]
    answers: Sequence[Sequence[Answer]]
    branch: str
    read: bool = True
    true_boxes: Sequence[Sequence[tuple[str, Box]]] | None = None

    def of_kind(self, kind: str) -> Films:
        """Return the images of one kind."""
        rows = [i for i, one in enumerate(self.kinds) if one == kind]
        parts: dict[str, Any] = {
            name: getattr(self, name)[rows]
            for name in ("images", "heat_maps", "masks", "boxes", "crops")
        }
        for name in ("kinds", "titles", "answers", "true_boxes"):
            of_image = getattr(self, name)
            parts[name] = of_image and [of_image[i] for i in rows]
        return dataclasses.replace(self, **parts)


class Example(NamedTuple):
    """An image that has a finding, for the report.

    Attributes:
        row: of the scored images.
        column: of the finding.
        caught: it is a catch, not a miss.
        beaten: share of the images without the finding that score below this one.
    """

    row: int
    column: int
    caught: bool
    beaten: float


def choose_examples(
    scored: ScoredImages, catches: int = CATCHES, misses: int = MISSES
) -> list[Example]:
    """Choose the last branch's best catches and worst misses, of different findings and images.

    A finding's catch is the positive image with the highest score, its miss the one with the
    lowest. The best catches beat the most images without the finding (of equal ones, those of
    rarer findings come first), the worst misses the fewest.
    """
    scores = list(scored.ranked.values())[-1]
    candidates: dict[bool, list[tuple[float, int, Example]]] = {True: [], False: []}
    for finding in scored.findings:
        column = list(scored.labels).index(finding)
        truth = scored.label_matrix[:, column]
        rows, negatives = np.flatnonzero(truth == 1), np.sort(scores[truth == 0, column])
        if not len(rows) or not len(negatives):
            continue
        for caught, choose in ((True, np.argmax), (False, np.argmin)):
            row = int(rows[choose(scores[rows, column])])
            below = np.searchsorted(negatives, scores[row, column])
            example = Example(row, column, caught, float(below / len(negatives)))
            rank = -example.beaten if caught else example.beaten
            candidates[caught].append((rank, len(rows), example))
    examples: list[Example] = []
    for caught, count in ((True, catches), (False, misses)):
        used = {example.row for example in examples}
        for *_, example in sorted(candidates[caught]):
            if count and example.row not in used:
                examples.append(example)
                used.add(example.row)
                count -= 1
    return examples


def show_films(
    run: Run,
    variables: Variables,
    indices: np.ndarray,
    scored: ScoredImages,
    examples: list[Example] | None = None,
) -> Films | None:
    """Compute the regions attended to in examples.

    Args:
        run: see `Run`.
        variables: of the global branch at least.
        indices: int64 `[N]`, the scored records.
        scored: their labels and predictions.
        examples: by default those of `choose_examples`.

    Returns:
        The films, or None without an example.
    """
    examples = choose_examples(scored) if examples is None else examples
    if not examples:
        return None
    records, recipe = run.records, run.recipe
    if scored.boxes is None:  # no crop was read: show the attended region itself
        recipe = dataclasses.replace(recipe, local_input="crop")
    shown = indices[[example.row for example in examples]]
    batch = read_batch(records.images_and_labels(), shown)

    @jax.jit
    def attend_centre(variables: Variables, images: jax.Array) -> tuple[jax.Array, Attention]:
        inputs = window_inputs(images, recipe)
        output, _ = apply_branch(recipe.model, variables, "global", inputs.images, train=False)
        return jnp.round(inputs.images), attend_inputs(inputs, output.feature_map, recipe)

    inputs, attention = jax.device_get(attend_centre(variables, batch["image"]))
    return Films(
        images=inputs.astype(np.uint8),
        heat_maps=attention.heat_map,
        masks=attention.mask,
        boxes=attention.boxes,
        crops=np.round(attention.local_images).astype(np.uint8),
        kinds=["catches" if example.caught else "misses" for example in examples],
        titles=[_title(scored, example) for example in examples],
        answers=[_answers(scored, example.row) for example in examples],
        branch=list(scored.probabilities)[-1],
        read=scored.boxes is not None,
        true_boxes=[_true_boxes(run, int(record)) for record in shown],
    )


def _title(scored: ScoredImages, example: Example) -> str:
    return f"{plain_name(scored.labels[example.column])}\n{scored.image_ids[example.row]}"


def _answers(scored: ScoredImages, row: int) -> list[Answer]:
    """List an image's findings with a known label by falling probability of the last branch.

    Beside the label of a finding, a probability shows whether it is right; alone it does not.
    """
    probabilities = list(scored.probabilities.values())[-1][row]
    labels = scored.label_matrix[row]
    columns = [list(scored.labels).index(finding) for finding in scored.findings]
    return [
        Answer(scored.labels[c], float(probabilities[c]), bool(labels[c] == 1))
        for c in sorted(columns, key=lambda c: -probabilities[c])
        if labels[c] != MISSING
    ]


def _true_boxes(run: Run, record: int) -> list[tuple[str, Box]]:
    """Return an image's annotated boxes in pixels of the model's input."""
    boxes = run.records.boxes
    rows = np.flatnonzero(boxes.records == record)
    if not len(rows):
        return []
    findings, corners = boxes.findings[rows].tolist(), input_boxes(run, rows).tolist()
    return [(finding, tuple(box)) for finding, box in zip(findings, corners, strict=True)]
