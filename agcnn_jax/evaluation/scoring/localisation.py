"""Regions that a run attended to, against the annotated boxes of the scored images.

The attended region is the paper's, which does not depend on the finding. Grad-CAM and Grad-CAM++ of
the global branch ask for one finding, and may give several boxes. Four controls show what one
reaches without looking at the image. All boxes are in pixels of the model's input; annotated boxes
may extend beyond it, and what lies outside counts as missed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from agcnn_jax.attention.regions import region_box_host
from agcnn_jax.data.coordinates import to_input_pixels
from agcnn_jax.evaluation.scoring.map_boxes import ATTENDED, MAPS, RANDOM, find_boxes
from agcnn_jax.metrics.localisation import (
    Hits,
    Scores,
    best_hits,
    box_areas,
    box_hits,
    score_differences,
    score_hits,
    stack_boxes,
)
from agcnn_jax.metrics.location_controls import (
    centred_squares,
    maps_of_others,
    mean_boxes_of_others,
)
from agcnn_jax.models.agcnn import Variables
from agcnn_jax.run.run import Run

CENTRED, MEAN_BOX, PRIOR = "centred_square", "mean_box", "location_prior"
WAYS = (*MAPS, CENTRED, MEAN_BOX, PRIOR)
"""All ways of finding boxes. `centred_square` has the attended box's area; `mean_box` is the mean
annotated box of the same finding over all other patients; `location_prior` looks where these boxes
overlap most: it is the map of how many of them cover each pixel, cut off at tau like a heat map."""
CONTROLS = (RANDOM, CENTRED, MEAN_BOX, PRIOR)
"""The ways that do not look at the image."""
BEST_CONTROL = "best_control"

TAUS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclasses.dataclass(frozen=True)
class Count:
    """How much is annotated."""

    boxes: int
    images: int
    patients: int


@dataclasses.dataclass(frozen=True, eq=False)
class Annotated:
    """The images with annotated boxes of one finding.

    Attributes:
        records: int64 `[N]`.
        patients: str `[N]`.
        boxes: float64 `[N, M, 4]` in pixels of the model's input, then NaN.
    """

    records: np.ndarray
    patients: np.ndarray
    boxes: np.ndarray

    def count(self) -> Count:
        """Count boxes, images and patients."""
        boxes = int((~np.isnan(self.boxes[..., 0])).sum())
        return Count(boxes, len(self.records), len(np.unique(self.patients)))


@dataclasses.dataclass(frozen=True)
class Localisation:
    """The scores of one evaluation.

    Attributes:
        tau: the run's threshold.
        statistic: the run's heat map statistic.
        total: of all findings together.
        counts: per finding with boxes, in the order of the labels; empty without any box.
        scores: per tau, way (of `WAYS`) and finding. `mean_box` and `location_prior` lack findings
            with one patient.
        differences: the attended region minus each other way at the run's tau, per way and finding,
            and minus `BEST_CONTROL`: of the controls, for each measure and threshold, the one that
            does best on these images. This favours the control.
    """

    tau: float
    statistic: str
    total: Count
    counts: dict[str, Count]
    scores: dict[float, dict[str, dict[str, Scores]]]
    differences: dict[str, dict[str, Scores]]


def note(localisation: Localisation) -> str:
    """Say below the AUC table what is annotated."""
    total = localisation.total
    if not total.boxes:
        return "No image has an annotated box, so localisation is not scored."
    return (
        f"Annotated boxes: {total.boxes:,}, in {total.images:,} images of {total.patients:,} "
        "patients; localisation.md says how well they are found."
    )


def score_localisation(
    run: Run,
    variables: Variables,
    columns: Mapping[str, int],
    indices: np.ndarray,
    labels: Mapping[str, str] | None = None,
) -> Localisation:
    """Score where the global branch looks in the images that have annotated boxes.

    Runs on one device of the calling process.

    Args:
        run: see `Run`.
        variables: of the global branch at least.
        columns: the findings whose boxes to score, each with the index of the branch's output.
        indices: int64 `[N]`, the scored records.
        labels: the data's label of each finding, whose boxes are scored; by default its own name.
    """
    recipe, records = run.recipe, run.records
    labels = labels or {finding: finding for finding in columns}
    annotated = {
        finding: images
        for label, images in annotated_boxes(run, indices).items()
        for finding in columns
        if labels[finding] == label
    }
    taus = sorted({*TAUS, recipe.tau})
    scores: dict[float, dict[str, dict[str, Scores]]] = {
        tau: {way: {} for way in WAYS} for tau in taus
    }
    indices = np.concatenate([np.empty(0, np.int64), *(one.records for one in annotated.values())])
    outputs = [columns[finding] for finding, one in annotated.items() for _ in one.records]
    if outputs:
        points, boxes = find_boxes(run, variables, indices, np.array(outputs), taus)
    others = [way for way in WAYS if way != ATTENDED]
    differences: dict[str, dict[str, Scores]] = {way: {} for way in (*others, BEST_CONTROL)}
    counts: dict[str, Count] = {}
    end = 0
    for finding, images in annotated.items():
        start, end = end, end + len(images.records)
        counts[finding] = images.count()
        own = {name: points[name][start:end] for name in MAPS}
        priors: dict[float, np.ndarray] = {}
        if counts[finding].patients > 1:
            own[PRIOR], priors = location_priors(images, taus, recipe.input_size)
        for tau in taus:
            boxes_of = {name: stack_boxes(boxes[tau][name][start:end]) for name in MAPS}
            if tau in priors:
                boxes_of[PRIOR] = priors[tau]
            hits = _hits(images, boxes_of, own, recipe.input_size)
            for way, reached in hits.items():
                scores[tau][way][finding] = score_hits(reached)
                if tau == recipe.tau and way != ATTENDED:
                    differences[way][finding] = score_differences(hits[ATTENDED], reached)
            if tau == recipe.tau:
                of_controls = {way: hits[way] for way in CONTROLS if way in hits}
                differences[BEST_CONTROL][finding] = score_differences(
                    hits[ATTENDED], best_hits(list(of_controls.values()))
                )
    total = Count(
        # Two findings may be scored against the boxes of one label.
        sum({labels[finding]: count.boxes for finding, count in counts.items()}.values()),
        len(np.unique(indices)),
        len(np.unique(records.patient_ids[indices])),
    )
    return Localisation(recipe.tau, recipe.statistic, total, counts, scores, differences)


def location_priors(
    images: Annotated, taus: Sequence[float], size: int
) -> tuple[np.ndarray, dict[float, np.ndarray]]:
    """Find where the annotated boxes of all other patients overlap most.

    Args:
        images: of N images and two or more patients.
        taus: thresholds, as shares of the map's maximum.
        size: side of the input in pixels.

    Returns:
        Points `[N, 2]`, the centres of the largest region where most boxes overlap, and per tau
        boxes `[N, 1, 4]` around the largest region above it; without any box in the input, the
        whole input.
    """
    points = []
    boxes: dict[float, list[np.ndarray]] = {tau: [] for tau in taus}
    for overlap in maps_of_others(images.boxes, images.patients, size):
        left, top, right, bottom = region_box_host(overlap == overlap.max())
        points.append(((left + right) / 2, (top + bottom) / 2))
        for tau in taus:
            boxes[tau].append(region_box_host(overlap > tau * overlap.max()))
    return np.array(points), {tau: np.array(found)[:, None] for tau, found in boxes.items()}


def annotated_boxes(run: Run, indices: np.ndarray) -> dict[str, Annotated]:
    """Collect the annotated boxes of the records `indices`, per finding."""
    records = run.records
    boxes = records.boxes
    scored = np.isin(boxes.records, indices)
    annotated = {}
    for finding in records.labels:
        mine = np.flatnonzero(scored & (boxes.findings == finding))
        rows = np.unique(boxes.records[mine])
        if not len(rows):
            continue
        own = [input_boxes(run, mine[boxes.records[mine] == record]) for record in rows]
        annotated[finding] = Annotated(rows, records.patient_ids[rows], stack_boxes(own))
    return annotated


def input_boxes(run: Run, rows: np.ndarray) -> np.ndarray:
    """Return rows of `Records.boxes` that belong to one image, in pixels of the model's input."""
    records = run.records
    record = records.boxes.records[rows[0]]
    size = np.array([records.widths[record], records.heights[record]])
    corners = records.boxes.corners[rows]
    return to_input_pixels(corners, run.recipe.input_size, records.image_size, size)


def _hits(
    images: Annotated, found: dict[str, np.ndarray], points: dict[str, np.ndarray], size: int
) -> dict[str, Hits]:
    """Return what each way reaches, from boxes `[N, R, 4]` and points `[N, 2]` that maps give."""
    controls = {CENTRED: centred_squares(box_areas(found[ATTENDED][:, 0]), size)}
    if len(np.unique(images.patients)) > 1:
        controls[MEAN_BOX] = mean_boxes_of_others(images.boxes, images.patients)
    ways = {name: (box, points[name]) for name, box in found.items()}
    for name, box in controls.items():
        ways[name] = box[:, None], (box[:, :2] + box[:, 2:]) / 2
    return {
        way: box_hits(images.boxes, box, point, images.patients, size)
        for way, (box, point) in ways.items()
    }
