"""Heat maps and crops in runtimes of ONNX against those of the package."""

import numpy as np
import pytest

from agcnn_jax.attention import STATISTICS
from agcnn_jax.attention.boxes import centred_boxes
from agcnn_jax.attention.heatmap import heat_map
from agcnn_jax.attention.resample import crop_and_resize
from agcnn_jax.attention.stored import stored_boxes
from agcnn_jax.data.augment import centre_box
from agcnn_jax.inference.onnx_engines import import_openvino
from agcnn_jax.portable import attention
from agcnn_jax.portable.graph import FLOAT, INT32, Graph, serialise, tensor
from tests.portable.engines import ENGINES, compiled
from tests.portable.models import smooth_images

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e25])
def test_heat_maps_of_flat_and_of_large_features(engine, statistic, scale):
    """A flat map is zero everywhere, and squares of large activations stay numbers."""
    rng = np.random.default_rng(0)
    features = np.repeat(rng.random((2, 8, 1, 1)), 16, axis=2).reshape(2, 8, 4, 4)
    features[1, :, 2, 3] += 0.5
    features = (scale * features).astype(np.float32)
    graph = Graph()
    graph.rename(attention.heat_map(graph, "features", 4, 24, statistic), "heat")
    inputs, outputs = (
        tensor("features", FLOAT, ["B", 8, 4, 4]),
        tensor("heat", FLOAT, ["B", 24, 24]),
    )
    found = compiled(engine, serialise(graph, [inputs], [outputs]))(features=features)["heat"]
    expected = np.asarray(heat_map(features.transpose(0, 2, 3, 1), 24, statistic))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert not found[0].any() and found[1].max() == bool(scale)


def all_boxes(size):
    """Boxes of every width at every place on one axis, int32 `[N, 4]`; heights differ."""
    low, high = np.triu_indices(size + 1, 1)
    return np.stack([low, low[::-1], high, high[::-1]], axis=1).astype(np.int32)


@pytest.mark.parametrize("engine", ENGINES)
def test_boxes_moved_to_the_centre_or_to_the_stored_image(engine):
    graph, size, stored = Graph(), 20, 27
    graph.rename(attention.centred(graph, "boxes", size), "centred")
    graph.rename(attention.on_stored(graph, "boxes", size, stored), "stored")
    outputs = [tensor(name, INT32, ["B", 4]) for name in ("centred", "stored")]
    content = serialise(graph, [tensor("boxes", INT32, ["B", 4])], outputs)
    boxes = all_boxes(size)
    found = compiled(engine, content)(boxes=boxes)
    np.testing.assert_array_equal(found["centred"], centred_boxes(boxes, size))
    windows = np.tile(np.array(centre_box(stored), np.int32), (len(boxes), 1))
    expected = stored_boxes(boxes, windows, np.zeros(len(boxes), bool), size)
    np.testing.assert_array_equal(found["stored"], expected)


def crops_in(engine, images, boxes, target, **precision):
    graph, source = Graph(), images.shape[1]
    graph.rename(attention.crop(graph, "images", "boxes", source, target), "crops")
    inputs = [tensor("images", FLOAT, ["B", source, source]), tensor("boxes", INT32, ["B", 4])]
    content = serialise(graph, inputs, [tensor("crops", FLOAT, ["B", target, target])])
    return compiled(engine, content, **precision)(images=images, boxes=boxes)["crops"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("target", [24, 13])
def test_crops(engine, target):
    """Enlarged, and antialiased where a box is shrunk."""
    boxes = all_boxes(24)[::7]
    images = np.resize(smooth_images(8, 24), (len(boxes), 24, 24)).astype(np.float32)
    expected = crop_and_resize(images, boxes, target)
    np.testing.assert_allclose(crops_in(engine, images, boxes, target), expected, atol=1e-3)


@pytest.mark.skipif(
    "BF16" not in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"),
    reason="this processor does not compute in bfloat16",
)
def test_crops_in_bfloat16_are_at_the_right_place():
    """Pixels are rounded to a 256th and places are not, though bfloat16 ends at 256 pixels."""
    boxes = np.array([[10, 20, 200, 180], [100, 90, 224, 150], [33, 7, 224, 99]], np.int32)
    images = smooth_images(3, 224).astype(np.float32)
    expected = np.asarray(crop_and_resize(images, boxes, 224))
    found = crops_in("openvino", images, boxes, 224, precision="bf16")
    assert np.abs(found - expected).max() < 3
    assert 0.1 < np.abs(found - expected).mean() < 0.5
