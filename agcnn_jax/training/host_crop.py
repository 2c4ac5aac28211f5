"""The host cropper as the last stage of the grain pipeline (Section III-B).

The devices augment the batch, run the frozen global branch and threshold its heat map; the host
finds the regions, at which accelerators are slow, with OpenCV in threads. All of this runs one
batch ahead of the training step.

The faster side resamples the boxes (`benchmarks/cropping.py`): the host if the devices are CPUs,
otherwise the devices, which hold the images already; one bit a pixel goes to the host, and four
numbers an image come back.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from agcnn_jax.attention.boxes import centred_boxes
from agcnn_jax.attention.crop import boxes_host, crop_stored_host, resample_host
from agcnn_jax.attention.resample import crop_and_resize
from agcnn_jax.attention.stored import Stored, crop_stored
from agcnn_jax.models.agcnn import Variables, select_branches
from agcnn_jax.run.recipe import Recipe
from agcnn_jax.runtime.devices import REPLICATED, SHARDED, data_parallel, local_view, shard_batch
from agcnn_jax.training.steps import attended_masks


def make_host_cropper(
    recipe: Recipe, frozen: Variables, mesh: Mesh, resample_on_host: bool | None = None
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Make the function from a `training_batches` element to what `train_step` takes, sharded.

    The variables in `frozen` must outlive it. The host resamples where the devices are CPUs, unless
    `resample_on_host` says otherwise.
    """
    if resample_on_host is None:
        resample_on_host = mesh.devices.flat[0].platform == "cpu"
    local = mesh.local_mesh
    make_masks = functools.partial(attended_masks, recipe=recipe)
    routine = data_parallel(make_masks, local, (REPLICATED, SHARDED, REPLICATED), SHARDED)
    size, from_stored = recipe.input_size, recipe.crop_from == "stored"
    resize, on_host = functools.partial(crop_and_resize, size=size), resample_host
    if from_stored:
        options = {"size": size, "dtype": recipe.image_dtype}
        resize = functools.partial(crop_stored, **options)
        on_host = functools.partial(crop_stored_host, **options)
    resample = data_parallel(resize, local, (SHARDED, SHARDED), SHARDED)
    global_branch = local_view(mesh, select_branches(frozen, ("global",)))

    def crop(batch: dict[str, Any]) -> dict[str, Any]:
        stored = shard_batch(local, {"image": batch["image"], "record": batch["record"]})
        step = jax.device_put(np.int32(batch["step"]), NamedSharding(local, REPLICATED))
        made = routine(global_branch, stored, step)
        masks = np.unpackbits(jax.device_get(made["masks"]), axis=-1, count=size)
        boxes = boxes_host(masks)
        if recipe.local_input == "centred":
            boxes = centred_boxes(boxes, size)
        if from_stored:
            images = batch["image"] if resample_on_host else stored["image"]
            source = Stored(images, made["windows"], made["mirrored"])
        else:
            source = made["images"]
        if resample_on_host:
            local_images = shard_batch(local, on_host(jax.device_get(source), boxes))
        else:
            local_images = resample(source, shard_batch(local, boxes))
        ready = {"local_images": local_images, "pooled_global": made["pooled_global"]}
        return shard_batch(mesh, {**ready, "labels": batch["labels"]})

    return crop
