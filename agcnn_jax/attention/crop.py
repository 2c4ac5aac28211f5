"""From heat map masks to the local branch's input on the host (Section III-B)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from PIL import Image

from agcnn_jax.attention.regions import region_box_host
from agcnn_jax.attention.stored import Stored, stored_boxes
from agcnn_jax.runtime.machine import available_cores

# Images are shared out to threads; OpenCV's own threads would only compete with them.
cv2.setNumThreads(0)


def boxes_host(masks: np.ndarray) -> np.ndarray:
    """Find the boxes of a batch.

    Args:
        masks: bool or uint8 `[B, S, S]`.

    Returns:
        int32 `[B, 4]`; see `region_box_host`.
    """
    boxes = np.empty((len(masks), 4), np.int32)

    def find(row: int) -> None:
        boxes[row] = region_box_host(masks[row])

    _for_each_row(find, len(masks))
    return boxes


def resize_region_host(image: np.ndarray, box: np.ndarray, out: np.ndarray) -> None:
    """Cut a box out of an image and resize it, bilinearly and antialiased.

    Args:
        image: `[S, S]`, any real dtype.
        box: int32 `[4]`.
        out: float32 or float64 `[T, T]`, which takes the result; a region that is shrunk is
            rounded to float32.
    """
    xmin, ymin, xmax, ymax = box
    region, size = image[ymin:ymax, xmin:xmax], len(out)
    if max(region.shape) <= size:
        region = region.astype(out.dtype, copy=False)
        cv2.resize(region, (size, size), dst=out, interpolation=cv2.INTER_LINEAR)
    else:
        # OpenCV's bilinear interpolation does not antialias.
        shrunk = Image.fromarray(region.astype(np.float32))
        out[:] = shrunk.resize((size, size), Image.Resampling.BILINEAR)


def resample_host(images: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Crop a batch to its boxes, resized to the images' size.

    Args:
        images: float32 or float64 `[B, S, S]`.
        boxes: int32 `[B, 4]`.

    Returns:
        Local images `[B, S, S]`, dtype as `images`.
    """
    local_images = np.empty(images.shape, images.dtype)

    def crop(row: int) -> None:
        resize_region_host(images[row], boxes[row], local_images[row])

    _for_each_row(crop, len(images))
    return local_images


def crop_stored_host(
    stored: Stored, boxes: np.ndarray, size: int, dtype: np.typing.DTypeLike
) -> np.ndarray:
    """Do what `crop_stored` does, to rounding, with NumPy arrays."""
    images, windows, mirrored = map(np.asarray, stored)
    mapped = stored_boxes(boxes, windows, mirrored, size)
    local_images = np.empty((len(images), size, size), dtype)

    def crop(row: int) -> None:
        local = local_images[row]
        resize_region_host(images[row], mapped[row], local)
        if mirrored[row]:
            local[:] = local[:, ::-1]

    _for_each_row(crop, len(images))
    return local_images


def _for_each_row(work: Callable[[int], None], rows: int) -> None:
    """Call `work` with each row's number, in this thread and in others.

    OpenCV and Pillow release the GIL.
    """
    shares = max(1, min(16, available_cores(), rows))

    def take(first: int) -> None:
        for row in range(first, rows, shares):
            work(row)

    others = [_threads().submit(take, first) for first in range(1, shares)]
    take(0)
    for other in others:
        other.result()  # raises what it raised


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(16, thread_name_prefix="crop")
