"""From heat-map masks to the local branch's input, on the host and on the device."""

from __future__ import annotations

from concurrent.futures import Executor

import cv2
import jax
import numpy as np

from agcnn_jax.attention.heatmap import heat_map, heat_map_mask
from agcnn_jax.attention.regions import region_box_host, region_boxes_device
from agcnn_jax.attention.resample import crop_and_resize

# The pipeline runs one image a thread; OpenCV's own threads would only compete with them.
cv2.setNumThreads(0)


def crop_host(image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Crop one image to its mask's region with OpenCV, resized to the image's size.

    Args:
        image: float32 `[S, S]`.
        mask: bool or uint8 `[S, S]`.

    Returns:
        The local image, float32 `[S, S]`, and its box, int32 `[4]`.
    """
    box = region_box_host(mask)
    xmin, ymin, xmax, ymax = box
    region = np.ascontiguousarray(image[ymin:ymax, xmin:xmax])
    height, width = image.shape
    return cv2.resize(region, (width, height), interpolation=cv2.INTER_LINEAR), box


def crop_batch_host(
    images: np.ndarray, masks: np.ndarray, executor: Executor
) -> tuple[np.ndarray, np.ndarray]:
    """Crop a batch, an image at a time in the executor's threads (OpenCV releases the GIL).

    Args:
        images: float32 `[B, S, S]`.
        masks: bool or uint8 `[B, S, S]`.
        executor: where to run.

    Returns:
        Local images, float32 `[B, S, S]`, and boxes, int32 `[B, 4]`.
    """
    local_images = np.empty_like(images)
    boxes = np.empty((len(images), 4), np.int32)

    def crop(index: int) -> None:
        local_images[index], boxes[index] = crop_host(images[index], masks[index])

    for _ in executor.map(crop, range(len(images))):
        pass
    return local_images, boxes


def crop_device(
    images: jax.Array, feature_map: jax.Array, statistic: str, tau: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Crop a batch inside jit (Section III-B from the feature map to the local image).

    Args:
        images: gray levels `[B, S, S]`.
        feature_map: the global branch's `[B, h, w, K]`.
        statistic: heat map statistic, `max`, `l1` or `l2`.
        tau: threshold in 0..1.

    Returns:
        Local images float32 `[B, S, S]`, boxes int32 `[B, 4]`, heat maps float32 `[B, S, S]`.
    """
    heat = heat_map(feature_map, images.shape[-1], statistic)
    boxes = region_boxes_device(heat_map_mask(heat, tau))
    return crop_and_resize(images, boxes, images.shape[-1]), boxes, heat
