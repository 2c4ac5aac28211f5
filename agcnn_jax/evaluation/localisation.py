"""Where a run looked, against the annotated boxes of the scored images.

The attended region is the paper's, which does not depend on the finding. Grad-CAM and Grad-CAM++ of
the global branch ask for one finding, and may give several boxes. Three controls show what one
reaches without looking at the image. All boxes are in pixels of the model's input; annotated boxes
may extend beyond it, and what lies outside counts as missed.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from agcnn_jax.attention.class_maps import grad_cam, grad_cam_plus_plus
from agcnn_jax.attention.heatmap import channel_response, heat_map_mask, scale_map
from agcnn_jax.attention.regions import all_region_boxes_host, region_box_host
from agcnn_jax.data.augment import centre_crop
from agcnn_jax.data.pipeline import read_batch
from agcnn_jax.evaluation.coordinates import to_input_pixels
from agcnn_jax.metrics.localisation import (
    Scores,
    box_areas,
    centred_squares,
    map_peaks,
    mean_boxes_of_others,
    score_boxes,
    stack_boxes,
)
from agcnn_jax.models.agcnn import Variables, apply_branch
from agcnn_jax.run.experiment import Experiment
from agcnn_jax.run.recipe import Recipe

ATTENDED, RANDOM = "attended", "random_map"
MAPS = (ATTENDED, "grad_cam", "grad_cam_plus_plus", RANDOM)
"""What gives boxes by a threshold: heat map, class-specific maps, and a random map as a control."""

CENTRED, MEAN_BOX = "centred_square", "mean_box"
WAYS = (*MAPS, CENTRED, MEAN_BOX)
"""All ways of finding boxes. `centred_square` has the attended box's area; `mean_box` is the mean
annotated box of the same finding over all other patients."""

TAUS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


class Annotated(NamedTuple):
    """The images with annotated boxes of one finding.

    Attributes:
        records: int64 `[N]`.
        patients: str `[N]`.
        boxes: float64 `[N, M, 4]` in pixels of the model's input, then NaN.
    """

    records: np.ndarray
    patients: np.ndarray
    boxes: np.ndarray


@dataclasses.dataclass(frozen=True)
class Count:
    """How much is annotated; boxes of different findings on one image count each."""

    boxes: int
    images: int
    patients: int


@dataclasses.dataclass(frozen=True)
class Localisation:
    """The scores of one evaluation.

    Attributes:
        tau: the run's threshold.
        statistic: the run's heat map statistic.
        total: of all findings together.
        counts: per finding with boxes, in the order of the labels; empty without any box.
        scores: per tau, way (of `WAYS`) and finding. `mean_box` lacks findings with one patient.
    """

    tau: float
    statistic: str
    total: Count
    counts: dict[str, Count]
    scores: dict[float, dict[str, dict[str, Scores]]]


def localise(experiment: Experiment, variables: Variables, indices: np.ndarray) -> Localisation:
    """Score where the global branch looks in the images that have annotated boxes.

    Runs on one device of the calling process.

    Args:
        experiment: see `Experiment`.
        variables: of the global branch at least.
        indices: int64 `[N]`, the scored records.
    """
    recipe, records = experiment.recipe, experiment.records
    annotated = annotated_boxes(experiment, indices)
    taus = sorted({*TAUS, recipe.tau})
    scores: dict[float, dict[str, dict[str, Scores]]] = {
        tau: {way: {} for way in WAYS} for tau in taus
    }
    chosen = np.concatenate([np.empty(0, np.int64), *(one.records for one in annotated.values())])
    columns = [records.labels.index(name) for name, one in annotated.items() for _ in one.records]
    if columns:
        points, boxes = _find(experiment, variables, chosen, np.array(columns), taus)
    start = 0
    for finding, images in annotated.items():
        rows = slice(start, start + len(images.records))
        start = rows.stop
        own = {name: rows_of[rows] for name, rows_of in points.items()}
        for tau in taus:
            found = {name: stack_boxes(rows_of[rows]) for name, rows_of in boxes[tau].items()}
            for way, (box, point) in _with_controls(images, found, own, recipe.input_size).items():
                scores[tau][way][finding] = score_boxes(images.boxes, box, point, images.patients)
    counts = {
        finding: Count(
            int((~np.isnan(images.boxes[..., 0])).sum()),
            len(images.records),
            len(np.unique(images.patients)),
        )
        for finding, images in annotated.items()
    }
    total = Count(
        sum(count.boxes for count in counts.values()),
        len(np.unique(chosen)),
        len(np.unique(records.patient_ids[chosen])),
    )
    return Localisation(recipe.tau, recipe.statistic, total, counts, scores)


def annotated_boxes(experiment: Experiment, indices: np.ndarray) -> dict[str, Annotated]:
    """Collect the annotated boxes of the records `indices`, per finding."""
    records, size = experiment.records, experiment.recipe.input_size
    boxes = records.boxes
    scored = np.isin(boxes.records, indices)
    annotated = {}
    for finding in records.labels:
        mine = np.flatnonzero(scored & (boxes.findings == finding))
        chosen = np.unique(boxes.records[mine])
        if not len(chosen):
            continue
        own = [
            to_input_pixels(
                boxes.corners[mine[boxes.records[mine] == record]],
                size,
                records.image_size,
                np.array([records.widths[record], records.heights[record]]),
            )
            for record in chosen
        ]
        annotated[finding] = Annotated(chosen, records.patient_ids[chosen], stack_boxes(own))
    return annotated


def response_maps(
    variables: Variables,
    images: jax.Array,
    records: jax.Array,
    columns: jax.Array,
    recipe: Recipe,
) -> tuple[jax.Array, jax.Array]:
    """Compute the maps of stored images, uint8 `[B, S, S]`.

    Args:
        variables: see `localise`.
        images: stored images.
        records: int32 `[B]`, which draw the random maps.
        columns: int `[B]`, the label that the class-specific maps of each image look for.
        recipe: how the branch sees the images.

    Returns:
        For each of `MAPS`, float32: the responses `[4, B, h, w]`, and the maps `[4, B, S, S]` in
        0..1, for an input of side S.
    """
    inputs = centre_crop(images.astype(recipe.image_dtype), recipe.input_size)
    output, _ = apply_branch(recipe.model, variables, "global", inputs, train=False)
    features = output.feature_map
    weights = jnp.asarray(variables["params"]["global"]["head"]["kernel"]).T[columns]
    noise = jax.vmap(
        lambda record: jax.random.uniform(
            jax.random.fold_in(jax.random.key(0), record), features.shape[1:3], jnp.float32
        )
    )(records)
    responses = jnp.stack(
        [
            channel_response(features, recipe.statistic),
            grad_cam(features, weights),
            grad_cam_plus_plus(features, weights, recipe.model.pooling),
            noise,
        ]
    )
    return responses, jax.vmap(lambda maps: scale_map(maps, recipe.input_size))(responses)


def _find(
    experiment: Experiment,
    variables: Variables,
    chosen: np.ndarray,
    columns: np.ndarray,
    taus: list[float],
) -> tuple[dict[str, np.ndarray], dict[float, dict[str, list[np.ndarray]]]]:
    """Find points and boxes in the records `chosen` `[P]`, for the labels `columns` `[P]`.

    Returns:
        Of each map, its peaks `[P, 2]`, and per tau its P arrays of boxes `[R, 4]`.
    """
    recipe = experiment.recipe
    source = experiment.records.images_and_labels()
    # One device's share of a batch.
    size = min(len(chosen), max(1, experiment.config.eval_batch_size // experiment.mesh.size))
    compute = jax.jit(functools.partial(response_maps, recipe=recipe))
    points: dict[str, list[np.ndarray]] = {name: [] for name in MAPS}
    boxes: dict[float, dict[str, list[np.ndarray]]] = {
        tau: {name: [] for name in MAPS} for tau in taus
    }
    for start in range(0, len(chosen), size):
        # The last batch is filled up with the first images, whose results are left out.
        rows = np.arange(start, start + size) % len(chosen)
        count = min(size, len(chosen) - start)
        batch = read_batch(source, chosen[rows])
        responses, maps = compute(variables, batch["image"], batch["record"], columns[rows])
        for name, response in zip(MAPS, np.asarray(responses), strict=True):
            points[name].append(map_peaks(response[:count], recipe.input_size))
        for tau in taus:
            for name, masks in zip(MAPS, np.asarray(heat_map_mask(maps, tau)), strict=True):
                boxes[tau][name] += [_boxes(name, mask) for mask in masks[:count]]
    return {name: np.concatenate(parts) for name, parts in points.items()}, boxes


def _boxes(name: str, mask: np.ndarray) -> np.ndarray:
    """Return the boxes `[R, 4]` of a mask: of the largest region alone where the paper's way."""
    if name in (ATTENDED, RANDOM):
        return region_box_host(mask)[None]
    return all_region_boxes_host(mask)


def _with_controls(
    images: Annotated, found: dict[str, np.ndarray], points: dict[str, np.ndarray], size: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return each way's boxes `[N, R, 4]` and points `[N, 2]`, with the boxes that need no map."""
    ways = {name: (found[name], points[name]) for name in MAPS}
    controls = {CENTRED: centred_squares(box_areas(found[ATTENDED][:, 0]), size)}
    if len(np.unique(images.patients)) > 1:
        controls[MEAN_BOX] = mean_boxes_of_others(images.boxes, images.patients)
    for name, box in controls.items():
        ways[name] = box[:, None], (box[:, :2] + box[:, 2:]) / 2
    return ways
