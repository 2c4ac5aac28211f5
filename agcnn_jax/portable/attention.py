"""Heat maps and crops in operators of ONNX; `agcnn_jax.attention` says what they compute."""

from __future__ import annotations

import jax
import numpy as np

from agcnn_jax.attention import STATISTICS
from agcnn_jax.attention.boxes import centred_boxes
from agcnn_jax.attention.heatmap import BELOW_1
from agcnn_jax.attention.resample import PRECISION
from agcnn_jax.attention.stored import stored_boxes
from agcnn_jax.data.augment import centre_box
from agcnn_jax.portable.graph import FLOAT, Graph


def resize(graph: Graph, maps: str, source: int, target: int) -> str:
    """Resize maps, float32 `[B, source, source]`, as `jax.image.resize` does."""
    if source == target:
        return maps
    # The map is linear: its matrix is the image of the identity.
    identity = np.eye(source, dtype=np.float32)
    matrix = np.asarray(
        jax.image.resize(identity, (target, source), "linear", precision=PRECISION), np.float32
    )
    rows = graph.add("MatMul", graph.constant(matrix), maps)
    return graph.add("MatMul", rows, graph.constant(matrix.T))


def heat_map(graph: Graph, feature_map: str, cells: int, size: int, statistic: str) -> str:
    """Add the heat map float32 `[B, size, size]` of a feature map `[B, K, cells, cells]`.

    See `agcnn_jax.attention.heatmap.heat_map`. Activations come out of a ReLU: none is negative.
    """
    g = graph
    if statistic == "max":
        response = g.reduce("ReduceMax", feature_map, 1)
    elif statistic == "l1":
        response = g.reduce("ReduceMean", feature_map, 1)
    elif statistic == "l2":
        # Squares could leave float32's range. The factor 1/K and the scale are lost below, where
        # the map is scaled to 0..1.
        highest = g.reduce("ReduceMax", feature_map, 1, 2, 3, keep=True)
        scaled = g.add("Div", feature_map, _or_one(g, highest))
        response = g.add("Sqrt", g.reduce("ReduceSumSquare", scaled, 1))
    else:
        raise ValueError(f"statistic is {statistic!r}; use one of {', '.join(STATISTICS)}")
    response = g.add("Sub", response, g.reduce("ReduceMin", response, 1, 2, keep=True))
    resized = resize(g, response, cells, size)
    low = g.reduce("ReduceMin", resized, 1, 2, keep=True)
    high = g.reduce("ReduceMax", resized, 1, 2, keep=True)
    span = g.add("Sub", high, low)
    scaled = g.add("Div", g.add("Sub", resized, low), _or_one(g, span))
    one, zero = g.constant(1), g.constant(0)
    # Runtimes may divide by way of a reciprocal: a number by itself is then 1 only up to rounding.
    exact = g.add("Where", g.add("Equal", resized, high), one, scaled)
    return g.add("Where", g.add("Greater", span, zero), exact, zero)


def _or_one(graph: Graph, value: str) -> str:
    """Replace what is not above 0 by 1."""
    positive = graph.add("Greater", value, graph.constant(0))
    return graph.add("Where", positive, value, graph.constant(1))


def below_one(graph: Graph, tau: str) -> str:
    """Keep the threshold below 1, which the highest pixel of a map reaches."""
    return graph.add("Min", tau, graph.constant(BELOW_1))


def centred(graph: Graph, boxes: str, size: int) -> str:
    """Move boxes int32 `[B, 4]` to the centre; see `centred_boxes`."""
    sides = np.arange(size + 1, dtype=np.int32)
    moved = centred_boxes(np.stack([0 * sides, 0 * sides, sides, sides], axis=1), size)
    xmin, ymin, xmax, ymax = _edges(graph, boxes)
    width, height = graph.add("Sub", xmax, xmin), graph.add("Sub", ymax, ymin)
    # In a table of every side's edges, as no runtime rounds whole numbers there.
    low, high = (graph.constant(moved[:, column], np.int32) for column in (0, 2))
    edges = [graph.add("Gather", table, side) for table in (low, high) for side in (width, height)]
    return graph.add("Concat", *edges, axis=1)


def on_stored(graph: Graph, boxes: str, size: int, stored_size: int) -> str:
    """Map boxes int32 `[B, 4]` of the centre crop to the stored images; see `stored_boxes`."""
    places = np.arange(size + 1, dtype=np.int32)
    windows = np.tile(np.array(centre_box(stored_size), np.int32), (len(places), 1))
    mapped = stored_boxes(np.tile(places[:, None], 4), windows, np.zeros(len(places), bool), size)
    tables = [graph.constant(column, np.int32) for column in mapped.T]
    edges = _edges(graph, boxes)
    found = [graph.add("Gather", *pair) for pair in zip(tables, edges, strict=True)]
    return graph.add("Concat", *found, axis=1)


def crop(graph: Graph, images: str, boxes: str, source: int, size: int) -> str:
    """Cut boxes out of images, float32 `[B, source, source]`, and resize; see `crop_and_resize`."""
    xmin, ymin, xmax, ymax = _edges(graph, boxes)
    rows = _interpolation_matrices(graph, ymin, ymax, source, size)
    columns = _interpolation_matrices(graph, xmin, xmax, source, size)
    cropped = graph.add("MatMul", rows, images)
    return graph.add("MatMul", cropped, graph.add("Transpose", columns, perm=[0, 2, 1]))


def _interpolation_matrices(graph: Graph, start: str, stop: str, source: int, target: int) -> str:
    """Add the weights `[B, target, source]` of spans int32 `[B, 1]`; see `interpolation_matrix`.

    Places are whole numbers of `1 / (2 * target)` pixels, so that runtimes that compute in bfloat16
    know them as exactly as others.
    """
    g, zero = graph, graph.constant(0)
    start, stop = g.reshape(start, -1, 1, 1), g.reshape(stop, -1, 1, 1)
    length = g.add("Sub", stop, start)
    pixel = g.add("Sub", g.constant(np.arange(source)[None, None], np.int32), start)
    centre = g.constant(2 * np.arange(target)[None, :, None] + 1, np.int32)
    position = g.add("Sub", g.add("Mul", centre, length), g.constant(target, np.int32))
    beside = g.add("Sub", position, g.add("Mul", pixel, g.constant(2 * target, np.int32)))
    distance = g.cast(g.add("Abs", beside), FLOAT)
    reach = g.cast(g.add("Max", length, g.constant(target, np.int32)), FLOAT)
    share = g.add("Div", distance, g.add("Mul", reach, g.constant(2)))
    weights = g.add("Sub", g.constant(1), share)
    first = g.add("GreaterOrEqual", pixel, g.constant(0, np.int32))
    inside = g.add("And", first, g.add("Less", pixel, length))
    weights = g.add("Where", inside, g.add("Max", weights, zero), zero)
    return g.add("Div", weights, g.reduce("ReduceSum", weights, 2, keep=True))


def _edges(graph: Graph, boxes: str) -> list[str]:
    """Split boxes `[B, 4]` into four times `[B, 1]`."""
    return graph.add_all("Split", 4, boxes, axis=1, num_outputs=4)
