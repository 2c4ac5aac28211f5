"""Example films for the report: attended regions beside annotated boxes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from agcnn_jax.attention.attend import Attention, attend
from agcnn_jax.data.augment import centre_crop
from agcnn_jax.data.pipeline import read_batch
from agcnn_jax.evaluation.coordinates import to_input_pixels
from agcnn_jax.evaluation.figures import Films
from agcnn_jax.evaluation.scored import ScoredImages
from agcnn_jax.models.agcnn import Variables, apply_branch
from agcnn_jax.run.experiment import Experiment

FILMS = 8
"""Number of images in the report."""


def show_films(
    experiment: Experiment,
    variables: Variables,
    indices: np.ndarray,
    scored: ScoredImages,
    count: int = FILMS,
) -> Films | None:
    """Choose images with findings for the report, and compute the regions attended to.

    Each finding, in order, contributes the positive image with the last branch's highest
    probability.

    Args:
        experiment: see `Experiment`.
        variables: replicated.
        indices: int64 `[N]`, the scored records.
        scored: their labels and predictions.
        count: largest number of images.

    Returns:
        The films, or None if no region was cropped or no image has a finding.
    """
    if scored.boxes is None:
        return None
    records, recipe = experiment.records, experiment.recipe
    branch, scores = list(scored.probabilities.items())[-1]
    rows: list[int] = []
    columns: list[int] = []
    for column in map(scored.labels.index, scored.findings):
        candidates = np.flatnonzero(scored.label_matrix[:, column])
        candidates = candidates[~np.isin(candidates, rows)]
        if len(candidates) and len(rows) < count:
            rows.append(int(candidates[np.argmax(scores[candidates, column])]))
            columns.append(column)
    if not rows:
        return None
    chosen = indices[rows]
    batch = read_batch(records.images_and_labels(), chosen)

    @jax.jit
    def attend_centre(variables: Variables, images: jax.Array) -> tuple[jax.Array, Attention]:
        inputs = centre_crop(images, recipe.input_size)
        output, _ = apply_branch(recipe.model, variables, "global", inputs, train=False)
        attention = attend(inputs, output.feature_map, recipe.statistic, recipe.tau)
        return jnp.round(inputs), attention

    inputs, attention = jax.device_get(attend_centre(variables, batch["image"]))
    titles = [
        f"{image_id}\n{scored.labels[column]}: {branch} {score:.2f}"
        for image_id, column, score in zip(
            records.image_ids[chosen], columns, scores[rows, columns], strict=True
        )
    ]
    return Films(
        images=inputs.astype(np.uint8),
        heat_maps=attention.heat_map,
        boxes=attention.boxes,
        crops=np.round(attention.local_images).astype(np.uint8),
        titles=titles,
        true_boxes=[_true_boxes(experiment, int(record)) for record in chosen],
    )


def _true_boxes(
    experiment: Experiment, record: int
) -> list[tuple[str, tuple[float, float, float, float]]]:
    """Return an image's annotated boxes in pixels of the model's input."""
    records = experiment.records
    chosen = np.flatnonzero(records.boxes.records == record)
    size = np.array([records.widths[record], records.heights[record]])
    boxes = to_input_pixels(
        records.boxes.corners[chosen], experiment.recipe.input_size, records.image_size, size
    )
    return [
        (str(finding), (xmin, ymin, xmax, ymax))
        for finding, (xmin, ymin, xmax, ymax) in zip(
            records.boxes.findings[chosen], boxes.tolist(), strict=True
        )
    ]
