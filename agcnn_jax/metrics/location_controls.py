"""Boxes and maps that do not look at the image, for comparison with those that do.

Boxes are as in `localisation`. Those of other patients leave all images of the patient out.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def centred_squares(areas: np.ndarray, size: float) -> np.ndarray:
    """Return squares `[N, 4]` of given areas `[N]` in the centre of images of a side `size`."""
    reach = np.sqrt(areas)[:, None] / 2
    return np.concatenate(
        [size / 2 - reach, size / 2 - reach, size / 2 + reach, size / 2 + reach], 1
    )


def mean_boxes_of_others(annotated: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """Return the mean of the annotated boxes of all other patients, for each image.

    Args:
        annotated: of one finding, `[N, M, 4]`, with NaN.
        patients: `[N]`, two different ones at least.

    Returns:
        float64 `[N, 4]`.
    """
    _, patient = np.unique(patients, return_inverse=True)
    own = np.zeros((patient.max() + 1, 5))
    here = ~np.isnan(annotated[..., 0])
    ones = np.where(here, 1, 0)[..., None]
    np.add.at(own, patient, np.concatenate([np.nan_to_num(annotated), ones], axis=-1).sum(axis=1))
    others = own.sum(axis=0) - own[patient]
    return others[:, :4] / others[:, 4:]


def maps_of_others(annotated: np.ndarray, patients: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Count how many annotated boxes of all other patients cover each pixel, for each image.

    A pixel is covered if its centre is.

    Args:
        annotated: of one finding, `[N, M, 4]`, with NaN; parts outside the images do not count.
        patients: `[N]`.
        size: side of the images in pixels.

    Yields:
        int64 `[size, size]`, for N images.
    """
    _, patient = np.unique(patients, return_inverse=True)

    def cover(rows: np.ndarray) -> np.ndarray:
        counts = np.zeros((size, size), np.int64)
        boxes = annotated[rows].reshape(-1, 4)
        for xmin, ymin, xmax, ymax in boxes[~np.isnan(boxes[:, 0])]:
            columns = (xmin <= centres) & (centres < xmax)
            counts += np.outer((ymin <= centres) & (centres < ymax), columns)
        return counts

    # A map for each patient would not fit into memory for many.
    centres = np.arange(size) + 0.5
    everyone = cover(np.arange(len(annotated)))
    for one in patient:
        yield everyone - cover(np.flatnonzero(patient == one))
