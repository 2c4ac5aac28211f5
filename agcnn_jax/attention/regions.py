"""From a mask to the bounding box of its largest connected region, on the host and on the device.

Both find the largest 8-connected component; of several that are equally large, the one whose first
pixel comes first in raster order. Boxes are half-open, `xmin, ymin, xmax, ymax`, in pixels. A mask
without a set pixel gives the whole image.
"""

from __future__ import annotations

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def region_box_host(mask: np.ndarray) -> np.ndarray:
    """Find one mask's box with OpenCV.

    Args:
        mask: bool or uint8 `[H, W]`; whatever is not zero is set.

    Returns:
        int32 `[4]`.
    """
    height, width = mask.shape
    region = _as_uint8(mask)
    # There is at most one component a block of 2x2 pixels; OpenCV counts them up to 65,534.
    fits = -(-height // 2) * -(-width // 2) < 2**16 - 1
    count, labels = cv2.connectedComponents(
        region, connectivity=8, ltype=cv2.CV_16U if fits else cv2.CV_32S
    )
    if count == 1:
        return np.array([0, 0, width, height], np.int32)
    if count > 2:
        region = (labels == _largest_label(labels, count)).view(np.uint8)
    left, top, box_width, box_height = cv2.boundingRect(region)
    return np.array([left, top, left + box_width, top + box_height], np.int32)


def _largest_label(labels: np.ndarray, count: int) -> int:
    """Return which of the labels 1 to `count - 1` has most pixels; of several, the first met."""
    if count < 16:  # a pass over the labels for each is then faster
        areas = np.array([np.count_nonzero(labels == label) for label in range(count)])
    else:
        areas = np.bincount(labels.ravel(), minlength=count)
    areas[0] = 0
    largest = np.flatnonzero(areas == areas.max())
    if len(largest) == 1:
        return int(largest[0])
    # OpenCV numbers components by blocks of pixels, which is not quite raster order.
    return int(labels.ravel()[np.isin(labels, largest).argmax()])


def all_region_boxes_host(mask: np.ndarray) -> np.ndarray:
    """Find the boxes of all regions of one mask with OpenCV.

    Args:
        mask: bool or uint8 `[H, W]`; whatever is not zero is set.

    Returns:
        int32 `[R, 4]`, in no particular order; none for an empty mask.
    """
    statistics = cv2.connectedComponentsWithStats(_as_uint8(mask), connectivity=8)[2]
    left, top, width, height = statistics[1:, :4].T
    return np.stack([left, top, left + width, top + height], axis=1)


def _as_uint8(mask: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(mask).astype(np.uint8, copy=False)


def region_boxes_device(masks: jax.Array) -> jax.Array:
    """Find every mask's box inside jit.

    Args:
        masks: bool `[B, H, W]`.

    Returns:
        int32 `[B, 4]`.

    Raises:
        ValueError: if the masks are too large for the labels' int32 arithmetic.
    """
    _, height, width = masks.shape
    if (height * width + 1) * (max(height, width) + 1) >= 2**31:
        raise ValueError(f"masks of {height}x{width} pixels are too large; use up to 1289x1289")
    return jax.vmap(_region_box)(masks)


def _region_box(mask: jax.Array) -> jax.Array:
    height, width = mask.shape
    labels = _label_components(mask)
    label = _largest_region(labels)
    region = (labels == label) & (label > 0)
    xmin, xmax = _extent(region.any(axis=0))
    ymin, ymax = _extent(region.any(axis=1))
    box = jnp.stack([xmin, ymin, xmax, ymax])
    return jnp.where(mask.any(), box, jnp.array([0, 0, width, height])).astype(jnp.int32)


def _largest_region(labels: jax.Array) -> jax.Array:
    """Return which of `_label_components`' labels has most pixels; of several, the first met.

    Counts one region after another, until the pixels that are left cannot make up a larger one: a
    pass over the image for each, of which a heat map has no more than the feature map has cells. A
    histogram would need scattered additions, which TPUs do one by one.
    """

    def body(
        carry: tuple[jax.Array, jax.Array, jax.Array],
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        left, largest, area = carry
        label = left.max()  # labels fall in raster order
        region = left == label
        count = region.sum(dtype=jnp.int32)
        larger = count > area
        return (
            jnp.where(region, 0, left),
            jnp.where(larger, label, largest),
            jnp.where(larger, count, area),
        )

    none = (labels < 0).sum(dtype=jnp.int32)  # 0, but one for each device, as the labels are
    _, largest, _ = lax.while_loop(
        lambda carry: (carry[0] > 0).sum() > carry[2], body, (labels, none, none)
    )
    return largest


def _extent(occupied: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.argmax(occupied), occupied.shape[0] - jnp.argmax(occupied[::-1])


def _label_components(mask: jax.Array) -> jax.Array:
    """Label 8-connected components with the largest of their pixels' numbers.

    Pixels are numbered downwards in raster order, `H * W` first, so a component's label tells
    where it was first met; pixels outside the mask get 0. Labels spread along whole runs of a row
    or a column at once, and by one pixel diagonally: heat-map masks settle in about five rounds,
    where spreading by one pixel a round would take as many rounds as the image is wide.
    """
    height, width = mask.shape
    numbers = jnp.arange(height * width, 0, -1, jnp.int32).reshape(height, width)
    start = jnp.where(mask, numbers, 0)
    row_runs, column_runs = _run_numbers(mask, 1), _run_numbers(mask, 0)

    def spread(labels: jax.Array) -> jax.Array:
        labels = jnp.where(mask, _spread_along_runs(labels, row_runs, 1), 0)
        labels = jnp.where(mask, _spread_along_runs(labels, column_runs, 0), 0)
        padded = jnp.pad(labels, 1)
        neighbours = [
            padded[1 + down : 1 + down + height, 1 + right : 1 + right + width]
            for down in (-1, 1)
            for right in (-1, 1)
        ]
        for neighbour in neighbours:
            labels = jnp.maximum(labels, neighbour)
        return jnp.where(mask, labels, 0)

    def body(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        labels, _ = carry
        spreaded = spread(labels)
        return spreaded, (spreaded != labels).any()

    labels, _ = lax.while_loop(lambda carry: carry[1], body, (start, mask.any()))
    return labels


def _run_numbers(mask: jax.Array, axis: int) -> jax.Array:
    """Number the runs of set pixels along an axis: the count of unset pixels before each pixel."""
    return jnp.cumsum(~mask, axis=axis, dtype=jnp.int32)


def _spread_along_runs(labels: jax.Array, runs: jax.Array, axis: int) -> jax.Array:
    """Give every pixel of a run the run's largest label (unset pixels get any).

    The run's number, times more than any label, turns one running maximum over the line into one
    that starts again at every run. The sums stay within int32 for images up to 1,289 pixels wide.
    """
    scale = labels.size + 1
    forward = lax.cummax(runs * scale + labels, axis=axis) - runs * scale
    # Backwards the numbers must rise again.
    reversed_runs = runs.max() - runs
    backward = lax.cummax(reversed_runs * scale + labels, axis=axis, reverse=True)
    return jnp.maximum(forward, backward - reversed_runs * scale)
