"""The prediction step: logits, boxes, heat maps and pooled features of a batch of stored images.

Everywhere but on CPUs it is one program. XLA's CPU programs take 5 to 8 ms to find the region of a
224 px mask, as long as a whole small network, and OpenCV takes 0.1 ms: there the host finds the
regions, between a program for the global branch and one for the others (`docs/performance.md`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh

from agcnn_jax.attention.boxes import centred_boxes
from agcnn_jax.attention.crop import boxes_host
from agcnn_jax.data.augment import ten_windows
from agcnn_jax.models.agcnn import BRANCHES, Variables, apply_branch, forward
from agcnn_jax.models.layers import mean_logit
from agcnn_jax.run.recipe import Recipe
from agcnn_jax.runtime.devices import (
    REPLICATED,
    SHARDED,
    data_parallel,
    local_rows,
    replicate,
    shard_batch,
)
from agcnn_jax.training.inputs import Inputs, attend_inputs, crop_inputs, window_inputs

EXTRAS = ("heat_maps", "pooled")
"""Further outputs of `predict_step`: heat maps float32 `[B, s, s]`, s the input's side, in 0..1
(Eq. 3), and the global branch's Pool5 layer, float32 `[B, K]`."""


def predict_step(
    variables: Variables,
    images: jax.Array,
    *,
    recipe: Recipe,
    branches: Collection[str],
    crops: str = "centre",
    extras: Collection[str] = (),
) -> dict[str, jax.Array]:
    """Run inference on one device's share of stored images, uint8 `[B, S, S]`.

    `crops` is `centre`; or `ten`, which averages the probabilities over `ten_windows`, one window
    after another to need the memory of one. `extras` are of `EXTRAS`, for the centre crop.

    Returns:
        The logits `{branch: float32 [B, C]}`; `boxes` int32 `[B, 4]`, in pixels of the centre
        crop, where the local branch read a crop; and the extras.
    """

    def infer(inputs: Inputs) -> dict[str, jax.Array]:
        output = _predict_global(variables, inputs, recipe)
        logits = _predict_others(
            variables, inputs, output["pooled"], output["boxes"], recipe=recipe, branches=branches
        )
        kept = {*branches, *extras, *(["boxes"] if reads_crops(recipe, branches) else [])}
        return logits | {name: value for name, value in output.items() if name in kept}

    if crops == "centre":
        return infer(window_inputs(images, recipe))
    windows = jnp.asarray(ten_windows(images.shape[-1]))
    return _average(lax.map(lambda window: infer(window_inputs(images, recipe, window)), windows))


def _average(outputs: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Average probabilities over windows, `[10, B, C]`; take the rest of the first, the centre."""
    return {
        name: mean_logit(values) if name in BRANCHES else values[0]
        for name, values in outputs.items()
    }


def reads_crops(recipe: Recipe, branches: Collection[str]) -> bool:
    """Return whether the logits of these branches depend on crops of the attended regions."""
    return recipe.local_input != "image" and bool({"local", "fusion"} & set(branches))


def _predict_global(variables: Variables, inputs: Inputs, recipe: Recipe) -> dict[str, jax.Array]:
    """Run the global branch and attend; under jit, only what the caller uses is computed."""
    output, _ = apply_branch(recipe.model, variables, "global", inputs.images, train=False)
    attention = attend_inputs(inputs, output.feature_map, recipe)
    return {
        "global": output.logits,
        "pooled": output.pooled,
        "heat_maps": attention.heat_map,
        "masks": attention.mask,
        "boxes": attention.boxes,
    }


def _predict_others(
    variables: Variables,
    inputs: Inputs,
    pooled_global: jax.Array,
    boxes: jax.Array,
    *,
    recipe: Recipe,
    branches: Collection[str],
) -> dict[str, jax.Array]:
    """Return the logits of the branches other than the global one."""
    others = [branch for branch in branches if branch != "global"]
    crops = recipe.local_input != "image"
    local_images = crop_inputs(inputs, boxes) if crops else inputs.images
    logits, _ = forward(
        recipe.model, variables, None, local_images, branches=others, pooled_global=pooled_global
    )
    return logits


def make_predict_step(
    recipe: Recipe,
    mesh: Mesh,
    branches: Collection[str],
    crops: str = "centre",
    extras: Collection[str] = (),
) -> Callable[..., Any]:
    """Map `predict_step` over the devices and compile it; on CPUs with the host in between."""
    if mesh.devices.flat[0].platform == "cpu" and reads_crops(recipe, branches):
        return _with_regions_from_host(recipe, mesh, branches, crops, extras)
    step = functools.partial(
        predict_step, recipe=recipe, branches=branches, crops=crops, extras=extras
    )
    return data_parallel(step, mesh, (REPLICATED, SHARDED), SHARDED)


def _with_regions_from_host(
    recipe: Recipe, mesh: Mesh, branches: Collection[str], crops: str, extras: Collection[str]
) -> Callable[..., dict[str, jax.Array]]:
    kept = {*branches, *extras}

    def predict_global(
        variables: Variables, images: jax.Array, window: jax.Array | None
    ) -> dict[str, jax.Array]:
        output = _predict_global(variables, window_inputs(images, recipe, window), recipe)
        return {name: output[name] for name in {"global", "pooled", "masks", *extras}}

    def predict_others(
        variables: Variables,
        images: jax.Array,
        window: jax.Array | None,
        pooled: jax.Array,
        boxes: jax.Array,
    ) -> dict[str, jax.Array]:
        inputs = window_inputs(images, recipe, window)
        return _predict_others(variables, inputs, pooled, boxes, recipe=recipe, branches=branches)

    read = (REPLICATED, SHARDED, REPLICATED)
    first = data_parallel(predict_global, mesh, read, SHARDED)
    second = data_parallel(predict_others, mesh, (*read, SHARDED, SHARDED), SHARDED)

    def predict_window(
        variables: Variables, images: jax.Array, window: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        output = first(variables, images, window)
        boxes = boxes_host(local_rows(mesh, output["masks"]))
        if recipe.local_input == "centred":
            boxes = centred_boxes(boxes, recipe.input_size)
        placed = shard_batch(mesh, boxes)
        logits = second(variables, images, window, output["pooled"], placed) | {"boxes": placed}
        return logits | {name: value for name, value in output.items() if name in kept}

    if crops == "centre":
        return predict_window

    def average_windows(outputs: list[dict[str, jax.Array]]) -> dict[str, jax.Array]:
        return _average(jax.tree.map(lambda *each: jnp.stack(each), *outputs))

    average = data_parallel(average_windows, mesh, (SHARDED,), SHARDED)

    def predict_ten_windows(variables: Variables, images: jax.Array) -> dict[str, jax.Array]:
        windows = replicate(mesh, list(ten_windows(images.shape[-1])))
        made: dict[str, jax.Array] = average(
            [predict_window(variables, images, window) for window in windows]
        )
        return made

    return predict_ten_windows
