"""From the global branch's feature map to the local branch's input (Section III-B), inside jit."""

from __future__ import annotations

from typing import NamedTuple

import jax

from agcnn_jax.attention.boxes import centred_boxes
from agcnn_jax.attention.heatmap import heat_map, heat_map_mask
from agcnn_jax.attention.regions import region_boxes_device
from agcnn_jax.attention.resample import crop_and_resize
from agcnn_jax.attention.stored import Stored, crop_stored


class Attention(NamedTuple):
    """Where the global branch looks in B images of side S.

    Attributes:
        heat_map: float32 `[B, S, S]` in 0..1 (Eq. 3).
        mask: bool `[B, S, S]`, the heat map above tau (Eq. 4).
        boxes: int32 `[B, 4]`, `xmin, ymin, xmax, ymax` in pixels, half-open: around the mask's
            largest connected region or, for a centred local input, as large in the centre.
        local_images: float32 `[B, S, S]`, the boxes cut out and resized; float64 of float64 images.
    """

    heat_map: jax.Array
    mask: jax.Array
    boxes: jax.Array
    local_images: jax.Array


def attend(
    images: jax.Array,
    feature_map: jax.Array,
    statistic: str,
    tau: float,
    local_input: str = "crop",
    stored: Stored | None = None,
) -> Attention:
    """Attend to a batch; under jit, only what the caller uses is computed.

    Args:
        images: gray levels `[B, S, S]`.
        feature_map: the global branch's `[B, h, w, K]`.
        statistic: heat map statistic, `max`, `l1` or `l2`.
        tau: threshold in 0..1.
        local_input: `crop`; `centred` moves the boxes to the centre.
        stored: what to cut the boxes out of instead of `images`, which were cut from them.
    """
    size = images.shape[-1]
    heat = heat_map(feature_map, size, statistic)
    mask = heat_map_mask(heat, tau)
    boxes = region_boxes_device(mask)
    if local_input == "centred":
        boxes = centred_boxes(boxes, size)
    return Attention(heat, mask, boxes, cut_out(images, boxes, stored))


def cut_out(images: jax.Array, boxes: jax.Array, stored: Stored | None = None) -> jax.Array:
    """Cut boxes int32 `[B, 4]` out of images `[B, S, S]` and resize them to S.

    Out of `stored` instead, if given. float32 `[B, S, S]`, or float64 of float64 images.
    """
    size = images.shape[-1]
    if stored is None:
        return crop_and_resize(images, boxes, size)
    return crop_stored(stored, boxes, size, images.dtype)
