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
from agcnn_jax.models.agcnn import Variables, apply_branch
from agcnn_jax.run.experiment import Experiment
from agcnn_jax.training.prediction import Prediction

FILMS = 8
"""Number of images in the report."""


def show_films(
    experiment: Experiment,
    variables: Variables,
    indices: np.ndarray,
    prediction: Prediction,
    count: int = FILMS,
) -> Films | None:
    """Choose images with findings for the report, and compute the regions attended to.

    Each finding, in order, contributes the positive image with the last branch's highest
    probability.

    Args:
        experiment: see `Experiment`.
        variables: replicated.
        indices: int64 `[N]`, the scored records.
        prediction: their predictions.
        count: largest number of images.

    Returns:
        The films, or None if no region was cropped or no image has a finding.
    """
    if prediction.boxes is None:
        return None
    records, recipe = experiment.records, experiment.recipe
    branch, scores = list(prediction.probabilities.items())[-1]
    labels = records.label_matrix[indices]
    rows: list[int] = []
    names: list[str] = []
    for column in records.finding_columns:
        candidates = np.flatnonzero(labels[:, column])
        candidates = candidates[~np.isin(candidates, rows)]
        if len(candidates) and len(rows) < count:
            rows.append(int(candidates[np.argmax(scores[candidates, column])]))
            names.append(records.labels[column])
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
    columns = [records.labels.index(name) for name in names]
    titles = [
        f"{image_id}\n{name}: {branch} {score:.2f}"
        for image_id, name, score in zip(
            records.image_ids[chosen], names, scores[rows, columns], strict=True
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
