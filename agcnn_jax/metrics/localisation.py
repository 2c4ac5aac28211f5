"""Agreement of boxes and points found in images with annotated boxes.

Boxes are half-open, `xmin, ymin, xmax, ymax`, in any unit that all boxes of an image share. A box
of NaN stands for none, so that images with different numbers of boxes fit into one array.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from agcnn_jax.metrics.shares import Estimates, means, shares

IOU_THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
IOBB_THRESHOLDS = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Those of Wang et al. 2017 (ChestX-ray8), Table 4."""
# Rounding moves coordinates in pixels, and shares of areas, by less than 1e-12. Corners are whole
# pixels of a file or of the input, so that what is not equal differs by far more than this.
_EQUAL = 1e-10


class Hits(NamedTuple):
    """What one way of finding boxes reaches in N images with A annotated boxes of one finding.

    Attributes:
        patients: `[N]`.
        patients_of_boxes: `[A]`.
        iou: bool `[A, 7]`: does a found box meet the annotated one with an intersection over union
            above each of `IOU_THRESHOLDS`?
        iobb: bool `[A, 5]`: the same for the intersection over the found box's area and
            `IOBB_THRESHOLDS`.
        false_positives: int `[N, 5]`: how many found boxes meet no annotated box with an
            intersection over the found box's area above each of `IOBB_THRESHOLDS`?
        pointing: bool `[N]`: does the point lie in an annotated box (the pointing game)?
        centre: bool `[A]`: does the annotated box's centre lie in a found box?
        area: float64 `[N]`: of the found boxes together, as a share of the image.
    """

    patients: np.ndarray
    patients_of_boxes: np.ndarray
    iou: np.ndarray
    iobb: np.ndarray
    false_positives: np.ndarray
    pointing: np.ndarray
    centre: np.ndarray
    area: np.ndarray


class Scores(NamedTuple):
    """Shares and means of `Hits` with intervals over patients, or differences of two of them.

    Attributes:
        iou: `[7]`.
        iobb: `[5]`.
        false_positives: `[5]`.
        pointing: `[]`.
        centre: `[]`.
        area: `[]`.
    """

    iou: Estimates
    iobb: Estimates
    false_positives: Estimates
    pointing: Estimates
    centre: Estimates
    area: Estimates


def box_hits(
    annotated: np.ndarray, found: np.ndarray, points: np.ndarray, patients: np.ndarray, size: float
) -> Hits:
    """Compare the boxes and points found in N images with the annotated boxes of one finding.

    Args:
        annotated: `[N, M, 4]`; at least one box an image, then NaN.
        found: `[N, R, 4]`; NaN where fewer than R boxes were found.
        points: `[N, 2]`, x and y; NaN where there is none.
        patients: `[N]`.
        size: side of the images.
    """
    pairs = annotated[:, :, None], found[:, None]
    is_annotated, is_found = ~np.isnan(annotated[..., 0]), ~np.isnan(found[..., 0])
    iou, iobb = (np.nan_to_num(measure(*pairs))[..., None] for measure in (box_iou, box_iobb))
    matches = iobb > np.array(IOBB_THRESHOLDS) + _EQUAL
    wrong = is_found[..., None] & ~_any(matches, 1)
    centres = (annotated[..., :2] + annotated[..., 2:]) / 2
    centred = contains(found[:, None], centres[:, :, None])
    return Hits(
        patients=patients,
        patients_of_boxes=np.repeat(patients, is_annotated.sum(axis=1)),
        iou=_any(iou > np.array(IOU_THRESHOLDS) + _EQUAL, 2)[is_annotated],
        iobb=_any(matches, 2)[is_annotated],
        false_positives=wrong.sum(axis=1),
        pointing=_any(contains(annotated, points[:, None]), 1),
        centre=_any(centred, 2)[is_annotated],
        area=np.nansum(box_areas(found), axis=1) / size**2,
    )


def score_hits(hits: Hits) -> Scores:
    """Average hits over images or boxes, with intervals over patients."""
    return Scores(
        iou=shares(hits.iou, hits.patients_of_boxes),
        iobb=shares(hits.iobb, hits.patients_of_boxes),
        false_positives=means(hits.false_positives, hits.patients, least=0),
        pointing=shares(hits.pointing, hits.patients),
        centre=shares(hits.centre, hits.patients_of_boxes),
        area=means(hits.area, hits.patients, least=0),
    )


def score_differences(first: Hits, second: Hits) -> Scores:
    """Average the first's hits minus the second's of the same images, paired, so by patient too."""

    def difference(name: str, patients: np.ndarray) -> Estimates:
        one, other = (getattr(hits, name).astype(np.float64) for hits in (first, second))
        return means(one - other, patients)

    images, boxes = first.patients, first.patients_of_boxes
    of_boxes = ("iou", "iobb", "centre")
    return Scores(
        *(difference(name, boxes if name in of_boxes else images) for name in Scores._fields)
    )


def best_hits(ways: Sequence[Hits]) -> Hits:
    """Put the hits together that are best, for each measure and threshold on its own.

    The best are most frequent on average over the images or boxes; of false positives and areas
    the smallest are.

    Args:
        ways: of the same images and boxes.
    """

    def best(name: str) -> np.ndarray:
        values = np.stack([getattr(way, name) for way in ways])
        means = values.mean(axis=1)
        fewest = name in ("false_positives", "area")
        which = means.argmin(axis=0) if fewest else means.argmax(axis=0)
        return np.take_along_axis(values, np.expand_dims(which, (0, 1)), axis=0)[0]

    return Hits(ways[0].patients, ways[0].patients_of_boxes, *map(best, Scores._fields))


def _any(values: np.ndarray, axis: int) -> np.ndarray:
    return np.logical_or.reduce(values, axis=axis)


def box_areas(boxes: np.ndarray) -> np.ndarray:
    """Return the areas `[...]` of boxes `[..., 4]`."""
    return np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1)


def box_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the intersection over union `[...]` of boxes `[..., 4]`, broadcast; 0 to 1."""
    shared = _intersections(first, second)
    return shared / (box_areas(first) + box_areas(second) - shared)


def box_iobb(annotated: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return the intersection over the found box's area `[...]`, boxes broadcast; 0 to 1."""
    return _intersections(annotated, found) / box_areas(found)


def contains(boxes: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Tell whether boxes `[..., 4]` contain points `[..., 2]`, broadcast; False for NaN.

    A point on the low edge is inside, one on the high edge is not, rounding aside.
    """
    inside = (boxes[..., :2] <= points + _EQUAL) & (points + _EQUAL < boxes[..., 2:])
    return inside[..., 0] & inside[..., 1]


def _intersections(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    low = np.maximum(first[..., :2], second[..., :2])
    high = np.minimum(first[..., 2:], second[..., 2:])
    return np.prod(np.maximum(high - low, 0), axis=-1)


def stack_boxes(boxes: Sequence[np.ndarray]) -> np.ndarray:
    """Stack each image's boxes `[R, 4]`, for any R, to float64 `[N, largest R, 4]`, with NaN."""
    stacked = np.full((len(boxes), max(map(len, boxes)), 4), np.nan)
    for row, own in zip(stacked, boxes, strict=True):
        row[: len(own)] = own
    return stacked


def map_peaks(maps: np.ndarray, size: float) -> np.ndarray:
    """Find where maps have their maximum after bilinear resizing, which is at a cell's centre.

    Args:
        maps: `[N, h, w]`, before resizing.
        size: side of the resized maps.

    Returns:
        float64 `[N, 2]`, x and y from 0 to `size`; of several maxima the first in raster order,
        NaN for a flat map.
    """
    height, width = maps.shape[1:]
    flat = maps.reshape(len(maps), -1)
    rows, columns = np.divmod(flat.argmax(axis=1), width)
    peaks = np.stack([(columns + 0.5) / width, (rows + 0.5) / height], axis=-1) * size
    return np.where((flat.min(axis=1) < flat.max(axis=1))[:, None], peaks, np.nan)
