"""From heat map masks to the local branch's input on the host (Section III-B)."""

from __future__ import annotations

import functools
from concurrent.futures import Executor

import cv2
import numpy as np
from PIL import Image

from agcnn_jax.attention.regions import region_box_host
from agcnn_jax.attention.stored import Stored, stored_boxes

# The pipeline runs one image a thread; OpenCV's own threads would only compete with them.
cv2.setNumThreads(0)


def boxes_host(masks: np.ndarray, executor: Executor) -> np.ndarray:
    """Find the boxes of a batch, an image at a time in the executor's threads.

    Args:
        masks: bool or uint8 `[B, S, S]`.
        executor: where to run; OpenCV releases the GIL.

    Returns:
        int32 `[B, 4]`; see `region_box_host`.
    """
    return np.stack(list(executor.map(region_box_host, masks)))


def resize_region_host(
    image: np.ndarray, box: np.ndarray, size: int, dtype: np.typing.DTypeLike
) -> np.ndarray:
    """Cut a box int32 `[4]` out of an image and resize it, bilinearly and antialiased.

    Args:
        image: `[S, S]`, any real dtype.
        box: int32 `[4]`.
        size: side of the result in pixels.
        dtype: of the result, float32 or float64; a region that is shrunk is rounded to float32.

    Returns:
        `[size, size]`.
    """
    xmin, ymin, xmax, ymax = box
    region = np.ascontiguousarray(image[ymin:ymax, xmin:xmax], dtype)
    if max(region.shape) <= size:
        return cv2.resize(region, (size, size), interpolation=cv2.INTER_LINEAR)
    # OpenCV's bilinear interpolation does not antialias.
    shrunk = Image.fromarray(region.astype(np.float32, copy=False))
    return np.asarray(shrunk.resize((size, size), Image.Resampling.BILINEAR), dtype)


def resample_host(images: np.ndarray, boxes: np.ndarray, executor: Executor) -> np.ndarray:
    """Crop a batch to its boxes, resized to the images' size.

    Args:
        images: float32 or float64 `[B, S, S]`.
        boxes: int32 `[B, 4]`.
        executor: where to run.

    Returns:
        Local images `[B, S, S]`, dtype as `images`.
    """
    resize = functools.partial(resize_region_host, size=images.shape[-1], dtype=images.dtype)
    return np.stack(list(executor.map(resize, images, boxes)))


def crop_stored_host(
    stored: Stored, boxes: np.ndarray, executor: Executor, size: int, dtype: np.typing.DTypeLike
) -> np.ndarray:
    """Do what `crop_stored` does, to rounding, with NumPy arrays."""
    images, windows, mirrored = map(np.asarray, stored)
    mapped = stored_boxes(boxes, windows, mirrored, size)

    def crop(image: np.ndarray, box: np.ndarray, mirror: np.bool_) -> np.ndarray:
        local = resize_region_host(image, box, size, dtype)
        return local[:, ::-1] if mirror else local

    return np.stack(list(executor.map(crop, images, mapped, mirrored)))
