"""From heat map masks to the local branch's input on the host, with OpenCV (Section III-B)."""

from __future__ import annotations

from concurrent.futures import Executor

import cv2
import numpy as np

from agcnn_jax.attention.regions import region_box_host

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


def resize_region_host(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Cut a box int32 `[4]` out of an image `[S, S]` and resize it to `[S, S]` with OpenCV."""
    xmin, ymin, xmax, ymax = box
    region = np.ascontiguousarray(image[ymin:ymax, xmin:xmax])
    return cv2.resize(region, image.shape[::-1], interpolation=cv2.INTER_LINEAR)


def resample_host(images: np.ndarray, boxes: np.ndarray, executor: Executor) -> np.ndarray:
    """Crop a batch to its boxes with OpenCV, resized to the images' size.

    Args:
        images: float32 or float64 `[B, S, S]`.
        boxes: int32 `[B, 4]`.
        executor: where to run.

    Returns:
        Local images `[B, S, S]`, dtype as `images`.
    """
    return np.stack(list(executor.map(resize_region_host, images, boxes)))
