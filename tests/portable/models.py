"""Networks of random weights that tell images apart, and their outputs by the package."""

import functools

import jax
import numpy as np

from agcnn_jax.attention.boxes import centred_boxes
from agcnn_jax.attention.crop import boxes_host, crop_stored_host, resample_host
from agcnn_jax.attention.heatmap import heat_map
from agcnn_jax.models.agcnn import apply_branch, apply_fusion
from agcnn_jax.training.inputs import window_inputs
from tests.support.small_steps import random_variables


def settled_variables(recipe, images, seed=0):
    """Draw weights; BatchNorm's statistics are those of the images, and logits spread by about 1.

    Deep networks of random weights would overflow without.
    """
    rng = np.random.default_rng(seed)
    variables = random_variables(recipe.model, recipe.input_size, seed)
    inputs = window_inputs(images, recipe).images

    def vary(path, leaf):
        norm, kind = path[-2].key, path[-1].key
        spread = {"scale": 0.2, "bias": 0.2}.get(kind, 0)
        values = leaf + spread * rng.standard_normal(leaf.shape)
        # As in trained networks, most ReLUs are open and a block changes little of what it is
        # given. Others would magnify rounding from layer to layer.
        if kind == "bias" and norm != "head":
            values += 0.5
        if kind == "scale" and norm == "bn3":
            values *= 0.25
        return np.asarray(values, np.float32)

    variables["params"] = jax.tree.map_with_path(vary, variables["params"])
    pooled = {}
    for branch in ("global", "local"):
        before = variables["batch_stats"][branch]
        after = run_branch(recipe.model, variables, branch, inputs, train=True)[-1]
        # A step moves them by a tenth.
        statistics = jax.tree.map(
            lambda old, new: np.asarray(old + 10 * (new - old)), before, after
        )
        variables["batch_stats"][branch] = statistics
        pooled[branch] = np.asarray(run_branch(recipe.model, variables, branch, inputs)[1])
    pooled["fusion"] = np.concatenate([pooled["global"], pooled["local"]], axis=1)
    for branch, features in pooled.items():
        head = variables["params"][branch]["head"]
        head["kernel"] = head["kernel"] / np.std(features @ head["kernel"])
    return jax.tree.map(np.asarray, variables)


def run_branch(model, variables, branch, images, train=False):
    """Return feature map, pooled features, logits and statistics; both branches share a program."""
    alone = {kind: {"global": tree[branch]} for kind, tree in variables.items()}
    return _run_branch(model, train, alone, images)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run_branch(model, train, variables, images):
    output, statistics = apply_branch(model, variables, "global", images, train)
    return output.feature_map, output.pooled, output.logits, statistics


def expected_outputs(recipe, variables, images):
    """Compute a model's outputs with the host's regions and crops."""
    inputs = window_inputs(images, recipe)
    gray, size = np.asarray(inputs.images), recipe.input_size
    feature_map, pooled, logits, _ = run_branch(recipe.model, variables, "global", gray)
    heat = np.asarray(heat_map(feature_map, size, recipe.statistic))
    outputs = {"global": logits, "pooled": pooled, "heat_maps": heat}
    if recipe.local_input != "image":
        boxes = boxes_host(heat > np.float32(recipe.tau))
        if recipe.local_input == "centred":
            boxes = centred_boxes(boxes, size)
        outputs["boxes"] = boxes
        if recipe.crop_from == "stored":
            gray = crop_stored_host(inputs.stored, boxes, size, np.float32)
        else:
            gray = resample_host(gray, boxes)
    _, pooled_local, outputs["local"], _ = run_branch(recipe.model, variables, "local", gray)
    outputs["fusion"] = apply_fusion(variables, pooled, pooled_local)
    return {name: np.asarray(values) for name, values in outputs.items()}


def smooth_images(count, side, seed=0):
    """Draw gray levels uint8 `[count, side, side]` with something to look at."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 9, 9)).astype(np.float32)
    smooth = jax.image.resize(coarse, (count, side, side), "cubic")
    return np.asarray(np.clip(smooth, 0, 255).astype(np.uint8))
