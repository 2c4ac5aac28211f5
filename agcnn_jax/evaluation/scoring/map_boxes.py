"""Points and boxes of the heat map, of class-specific maps and of a random map."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from agcnn_jax.attention.class_maps import grad_cam, grad_cam_plus_plus
from agcnn_jax.attention.heatmap import heat_map_mask, reduce_channels, scale_map
from agcnn_jax.attention.regions import all_region_boxes_host, region_box_host
from agcnn_jax.data.augment import centre_crop
from agcnn_jax.data.pipeline import read_batch
from agcnn_jax.metrics.localisation import map_peaks
from agcnn_jax.models.agcnn import Variables, apply_branch
from agcnn_jax.run.recipe import Recipe
from agcnn_jax.run.run import Run

ATTENDED, RANDOM = "attended", "random_map"
MAPS = (ATTENDED, "grad_cam", "grad_cam_plus_plus", RANDOM)
"""The paper's heat map, two class-specific maps of the global branch, and a control."""

BATCH = 16
"""Images that one device computes at a time."""


def response_maps(
    variables: Variables,
    images: jax.Array,
    records: jax.Array,
    columns: jax.Array,
    recipe: Recipe,
) -> tuple[jax.Array, jax.Array]:
    """Compute the maps of stored images, uint8 `[B, S, S]`.

    Args:
        variables: of the global branch at least.
        images: stored images.
        records: int32 `[B]`, which draw the random maps.
        columns: int `[B]`, the output that the class-specific maps of each image look for.
        recipe: how the branch sees the images.

    Returns:
        For each of `MAPS`, float32: the responses `[4, B, h, w]`, and the maps `[4, B, S, S]` in
        0..1, for an input of side S.
    """
    inputs = centre_crop(images.astype(recipe.image_dtype), recipe.input_size)
    output, _ = apply_branch(recipe.model, variables, "global", inputs, train=False)
    features = output.feature_map
    weights = jnp.asarray(variables["params"]["global"]["head"]["kernel"]).T[columns]
    noise = jax.vmap(
        lambda record: jax.random.uniform(
            jax.random.fold_in(jax.random.key(0), record), features.shape[1:3], jnp.float32
        )
    )(records)
    responses = jnp.stack(
        [
            reduce_channels(features, recipe.statistic),
            grad_cam(features, weights),
            grad_cam_plus_plus(features, weights, recipe.model.pooling),
            noise,
        ]
    )
    return responses, jax.vmap(lambda maps: scale_map(maps, recipe.input_size))(responses)


def find_boxes(
    run: Run,
    variables: Variables,
    indices: np.ndarray,
    columns: np.ndarray,
    taus: list[float],
) -> tuple[dict[str, np.ndarray], dict[float, dict[str, list[np.ndarray]]]]:
    """Find points and boxes in the records `indices` `[P]`, for the outputs `columns` `[P]`.

    Returns:
        Of each map, its peaks `[P, 2]`, and per tau its P arrays of boxes `[R, 4]`.
    """
    recipe = run.recipe
    source = run.records.images_and_labels()
    # Of one size whatever the number of devices: rounding, and so a box, may depend on the batch.
    size = min(len(indices), run.config.eval_batch_size, BATCH)
    compute = jax.jit(functools.partial(response_maps, recipe=recipe))
    points: dict[str, list[np.ndarray]] = {name: [] for name in MAPS}
    boxes: dict[float, dict[str, list[np.ndarray]]] = {
        tau: {name: [] for name in MAPS} for tau in taus
    }
    for start in range(0, len(indices), size):
        # The last batch is filled up with the first images, whose results are left out.
        rows = np.arange(start, start + size) % len(indices)
        count = min(size, len(indices) - start)
        batch = read_batch(source, indices[rows])
        responses, maps = compute(variables, batch["image"], batch["record"], columns[rows])
        for name, response in zip(MAPS, np.asarray(responses), strict=True):
            points[name].append(map_peaks(response[:count], recipe.input_size))
        for tau in taus:
            for name, masks in zip(MAPS, np.asarray(heat_map_mask(maps, tau)), strict=True):
                boxes[tau][name] += [_boxes(name, mask) for mask in masks[:count]]
    return {name: np.concatenate(parts) for name, parts in points.items()}, boxes


def _boxes(name: str, mask: np.ndarray) -> np.ndarray:
    """Return the boxes `[R, 4]` of a mask; the paper's way is to take the largest region alone."""
    if name in (ATTENDED, RANDOM):
        return region_box_host(mask)[None]
    return all_region_boxes_host(mask)
