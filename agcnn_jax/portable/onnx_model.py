"""The whole AG-CNN as one ONNX model, from stored images to probabilities, boxes and distances.

Made of `onnx` alone, without a converter, and computed in float32 whatever the run computed in.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

import agcnn_jax
from agcnn_jax.data.augment import centre_box
from agcnn_jax.metrics.feature_distance import FeatureStatistics
from agcnn_jax.models.agcnn import Variables
from agcnn_jax.portable import attention, networks
from agcnn_jax.portable.graph import FLOAT, INT32, UINT8, Graph, serialise, tensor
from agcnn_jax.portable.regions import region_boxes
from agcnn_jax.run.calibration import Calibration
from agcnn_jax.run.recipe import Recipe
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.training.predict_step import reads_crops


def onnx_model(
    variables: Variables,
    recipe: Recipe,
    image_size: int,
    branches: Sequence[str],
    labels: Sequence[str],
    calibration: Calibration | None = None,
    digest: str = "",
) -> bytes:
    """Make the ONNX model of a trained AG-CNN, or of its first branches.

    Inputs are `images`, uint8 `[B, S, S]`, and where a local branch reads crops `tau`, float32
    `[]`, the threshold of the heat map in 0..1; the one of the training is in the metadata.
    Outputs, for each of `branches`, are the logits under the branch's name, `probability_<branch>`
    (Eq. 1) and, with a calibration, `calibrated_<branch>` (Platt's numbers; NaN where they could
    not be fitted), each float32 `[B, C]`; `pooled`, the global branch's Pool5 layer, float32
    `[B, K]`; `distance`, float32 `[B]`, from the training films, 1 at the threshold, if the
    calibration knows features; `boxes`, int32 `[B, 4]` in pixels of the model's input, if a local
    branch reads crops; `heat_maps`, float32 `[B, s, s]` in 0..1.

    Args:
        variables: weights and statistics of the branches.
        recipe: what the run's steps are compiled for.
        image_size: side S of the stored images in pixels.
        branches: the branches that it has, in the order of `BRANCHES`.
        labels: names of the C outputs; "" for one that was not trained.
        calibration: Platt's numbers and the distribution of features; None where not known.
        digest: of the weights, for the metadata.

    Raises:
        UserError: for a float64 run, or where the package `onnx` is missing.
    """
    if recipe.image_dtype == jnp.float64:
        raise UserError(
            "config.dtype is float64, which the format onnx does not have: its runtimes compute "
            "in float32; export the run in another format, or train in float32"
        )
    graph = Graph()
    crops = reads_crops(recipe, branches)
    outputs = _predict(graph, variables, recipe, image_size, branches, crops)
    logits = {branch: outputs[branch] for branch in branches}
    for branch, value in logits.items():
        outputs[f"probability_{branch}"] = graph.add("Sigmoid", value)
    if calibration is not None:
        for branch, value in logits.items():
            outputs[f"calibrated_{branch}"] = _calibrated(graph, value, branch, labels, calibration)
        if calibration.features is not None:
            outputs["distance"] = _distance(graph, outputs["pooled"], calibration.features)
    side, features = recipe.input_size, _feature_count(variables)
    shapes = {
        **{name: (FLOAT, [len(labels)]) for name in outputs},
        "pooled": (FLOAT, [features]),
        "distance": (FLOAT, []),
        "boxes": (INT32, [4]),
        "heat_maps": (FLOAT, [side, side]),
    }
    order = [
        *branches,
        *(f"{kind}_{one}" for kind in ("probability", "calibrated") for one in branches),
    ]
    names = [
        name for name in (*order, "pooled", "distance", "boxes", "heat_maps") if name in outputs
    ]
    for name in names:
        graph.rename(outputs[name], name)
    inputs = [tensor("images", UINT8, ["B", image_size, image_size])]
    if crops:
        inputs.append(tensor("tau", FLOAT, []))
    declared = [tensor(name, shapes[name][0], ["B", *shapes[name][1]]) for name in names]
    return serialise(graph, inputs, declared, _about(recipe, image_size, branches, labels, digest))


def _about(
    recipe: Recipe, image_size: int, branches: Sequence[str], labels: Sequence[str], digest: str
) -> dict[str, str]:
    """Say what another program needs to call the model and to read its outputs."""
    facts = {
        "program": "agcnn-jax",
        "version": agcnn_jax.__version__,
        "digest": digest,
        "labels": list(labels),
        "branches": list(branches),
        "image_size": image_size,
        "input_size": recipe.input_size,
        "tau": recipe.tau,
        "statistic": recipe.statistic,
        "local_input": recipe.local_input,
        "crop_from": recipe.crop_from,
        "pooling": recipe.model.pooling,
    }
    return {
        name: fact if isinstance(fact, str) else json.dumps(fact, ensure_ascii=False)
        for name, fact in facts.items()
    }


def _predict(
    graph: Graph,
    variables: Variables,
    recipe: Recipe,
    image_size: int,
    branches: Sequence[str],
    crops: bool,
) -> dict[str, str]:
    """Add what `predict_step` computes; return its outputs, and heat maps and pooled features."""
    size = recipe.input_size
    stored = graph.cast("images", FLOAT)
    low, _, high, _ = centre_box(image_size)
    window = graph.part(graph.part(stored, 1, low, high), 2, low, high)
    images = attention.resize(graph, window, high - low, size)
    feature_map, pooled = _branch(graph, variables, recipe, "global", images)
    outputs = {"global": _linear(graph, variables, "global", pooled), "pooled": pooled}
    heat = attention.heat_map(graph, feature_map, _cells(recipe), size, recipe.statistic)
    outputs["heat_maps"] = heat
    if crops:
        boxes = region_boxes(graph, heat, attention.below_one(graph, "tau"), size, size)
        if recipe.local_input == "centred":
            boxes = attention.centred(graph, boxes, size)
        outputs["boxes"] = boxes
        if recipe.crop_from == "stored":
            places = attention.on_stored(graph, boxes, size, image_size)
            images = attention.crop(graph, stored, places, image_size, size)
        else:
            images = attention.crop(graph, images, boxes, size, size)
    if {"local", "fusion"} & set(branches):
        _, pooled_local = _branch(graph, variables, recipe, "local", images)
        outputs["local"] = _linear(graph, variables, "local", pooled_local)
        if "fusion" in branches:
            both = graph.add("Concat", pooled, pooled_local, axis=1)
            outputs["fusion"] = _linear(graph, variables, "fusion", both)
    return outputs


def _branch(
    graph: Graph, variables: Variables, recipe: Recipe, branch: str, images: str
) -> tuple[str, str]:
    """Add the global or the local branch; return the feature map and the pooled features."""
    model = recipe.model
    mean, std = (np.array(values, np.float64)[:, None, None] for values in (model.mean, model.std))
    gray = graph.add("Unsqueeze", images, graph.integers(1))
    centred = graph.add("Sub", gray, graph.constant(255 * mean))
    normalised = graph.add("Mul", centred, graph.constant(1 / (255 * std)))
    feature_map = networks.features(
        *(graph, model.backbone, variables["params"][branch]["backbone"]),
        *(variables["batch_stats"][branch]["backbone"], normalised),
    )
    operator = "ReduceMax" if model.pooling == "max" else "ReduceMean"
    return feature_map, graph.reduce(operator, feature_map, 2, 3)


def _linear(graph: Graph, variables: Variables, branch: str, pooled: str) -> str:
    head = variables["params"][branch]["head"]
    return graph.add("Gemm", pooled, graph.constant(head["kernel"]), graph.constant(head["bias"]))


def _calibrated(
    graph: Graph, logits: str, branch: str, labels: Sequence[str], calibration: Calibration
) -> str:
    """Add the probabilities by Platt's numbers; see `run.calibration.Choice`."""
    choices = calibration.branches.get(branch, {})
    lines = [choices[label].platt if label in choices else None for label in labels]
    slopes = graph.constant([0 if line is None else line.slope for line in lines])
    intercepts = graph.constant([0 if line is None else line.intercept for line in lines])
    known = graph.constant([[line is not None for line in lines]], bool)
    fitted = graph.add("Sigmoid", graph.add("Add", graph.add("Mul", logits, slopes), intercepts))
    return graph.add("Where", known, fitted, graph.constant(np.nan))


def _distance(graph: Graph, pooled: str, statistics: FeatureStatistics) -> str:
    """Add the distances, 1 at the threshold; see `feature_distances`.

    What the components leave is computed as a vector: the difference of its square and theirs, as
    in float64, would lose float32's digits.
    """
    g = graph
    centred = g.add("Sub", pooled, g.constant(statistics.mean))
    components = np.asarray(statistics.components, np.float64)
    along = g.add("MatMul", centred, g.constant(components.T))
    rest = g.add("Sub", centred, g.add("MatMul", along, g.constant(components)))
    scales = 1 / np.sqrt(np.asarray(statistics.variances, np.float64)) / statistics.threshold
    along = g.add("Mul", along, g.constant(scales))
    rest = g.add("Mul", rest, g.constant(1 / np.sqrt(statistics.noise) / statistics.threshold))
    squares = [g.reduce("ReduceSumSquare", part, 1) for part in (along, rest)]
    return g.add("Sqrt", g.add("Add", *squares))


def _cells(recipe: Recipe) -> int:
    """Return the side of the last feature map."""
    model, size = recipe.model, recipe.input_size
    image = jax.ShapeDtypeStruct((1, size, size, len(model.mean)), jnp.float32)
    shapes = jax.eval_shape(
        lambda x: model.backbone.init_with_output(jax.random.key(0), x, train=False)[0], image
    )
    return int(shapes.shape[1])


def _feature_count(variables: Variables) -> int:
    return len(variables["params"]["global"]["head"]["kernel"])
