"""The host cropper as the last stage of the grain pipeline (Section III-B).

A jitted routine augments the batch, runs the frozen global branch and thresholds its heat map; the
host finds the regions and crops with OpenCV in threads. All of it runs one batch ahead, while the
device trains on the batch before.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from agcnn_jax.attention.crop import crop_batch_host
from agcnn_jax.data.pipeline import Batch
from agcnn_jax.models.agcnn import Variables
from agcnn_jax.training.parallel import (
    REPLICATED,
    SHARDED,
    data_parallel,
    join_local_shards,
    local_mesh,
    on_local_mesh,
    shard_batch,
)
from agcnn_jax.training.steps import Recipe, localise, select_branches


def make_host_cropper(recipe: Recipe, frozen: Variables, mesh: Mesh) -> Callable[[Batch], Batch]:
    """Make the pipeline stage.

    Args:
        recipe: see `Recipe`.
        frozen: variables, the global branch's among them; they must outlive the stage.
        mesh: the devices.

    Returns:
        A function from a `training_batches` element to `images` and `local_images`, float32
        `[B, input_size, input_size]`, and `labels`, all sharded over the mesh.
    """
    local = local_mesh(mesh)
    routine = data_parallel(
        functools.partial(localise, recipe=recipe),
        local,
        in_specs=(REPLICATED, SHARDED, REPLICATED),
        out_specs=SHARDED,
    )
    overall = on_local_mesh(mesh, select_branches(frozen, ("global",)))
    executor = ThreadPoolExecutor(min(16, os.cpu_count() or 1), thread_name_prefix="crop")

    def crop(batch: Batch) -> Batch:
        stored = shard_batch(local, {"image": batch["image"], "record": batch["record"]})
        step = jax.device_put(np.int32(batch["step"]), NamedSharding(local, REPLICATED))
        images, masks = routine(overall, stored, step)
        inputs, host_masks = jax.device_get((images, masks))
        local_images, _ = crop_batch_host(inputs, host_masks, executor)
        host = {"local_images": local_images, "labels": batch["labels"]}
        return {"images": join_local_shards(mesh, images), **shard_batch(mesh, host)}

    return crop
