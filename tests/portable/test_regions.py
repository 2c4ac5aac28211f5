"""The region of a mask in runtimes of ONNX, against OpenCV."""

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from agcnn_jax.attention.regions import region_box_host
from agcnn_jax.portable.graph import FLOAT, INT32, Graph, serialise, tensor
from agcnn_jax.portable.regions import region_boxes
from tests.portable.engines import ENGINES, compiled
from tests.portable.masks import KINDS, masks_of


@functools.cache
def boxes_in(engine, height, width):
    graph = Graph()
    graph.rename(region_boxes(graph, "values", "threshold", height, width), "boxes")
    inputs = [tensor("values", FLOAT, ["B", height, width]), tensor("threshold", FLOAT, [])]
    run = compiled(engine, serialise(graph, inputs, [tensor("boxes", INT32, ["B", 4])]))

    def boxes(values, threshold=0.5):
        threshold = np.array(threshold, np.float32)
        return run(values=values.astype(np.float32), threshold=threshold)["boxes"]

    return boxes


def check(engine, masks):
    found = boxes_in(engine, *masks.shape[1:])(masks)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, [region_box_host(mask) for mask in masks])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", KINDS)
def test_masks(engine, kind):
    check(engine, masks_of(kind, 8, 41, 37))


@pytest.mark.parametrize("engine", ENGINES)
def test_masks_of_all_kinds_in_one_batch(engine):
    masks = np.concatenate([masks_of(kind, 2, 41, 37, seed=1) for kind in KINDS])
    masks = np.random.default_rng(0).permutation(masks)
    check(engine, masks)
    check(engine, masks[:1])


@pytest.mark.parametrize("engine", ENGINES)
@given(masks=npst.arrays(bool, (2, 6, 5), elements=st.booleans()))
def test_any_mask(engine, masks):
    check(engine, masks)


@pytest.mark.parametrize("engine", ENGINES)
def test_only_what_exceeds_the_threshold_is_set(engine):
    values = np.array([[[0.25, 0.5, 0.75], [0, 0, 0]]])
    for threshold, box in ((0, [0, 0, 3, 1]), (0.25, [1, 0, 3, 1]), (0.5, [2, 0, 3, 1])):
        np.testing.assert_array_equal(boxes_in(engine, 2, 3)(values, threshold), [box])
    np.testing.assert_array_equal(boxes_in(engine, 2, 3)(values, 0.75), [[0, 0, 3, 2]])


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", KINDS)
def test_many_masks_as_large_as_the_input(engine, kind):
    """650 in all."""
    for seed in range(5):
        check(engine, masks_of(kind, 10, 224, 224, seed))
