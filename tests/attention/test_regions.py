"""Both region finders against scipy's labelling."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import ndimage

from agcnn_jax.attention.regions import (
    all_region_boxes_host,
    region_box_host,
    region_boxes_device,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

boxes_on_device = jax.jit(region_boxes_device)


def reference_box(mask):
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    if count == 0:
        return np.array([0, 0, mask.shape[1], mask.shape[0]])
    areas = np.bincount(labels.ravel())[1:]
    largest = np.flatnonzero(areas == areas.max()) + 1
    first = min(largest, key=lambda label: np.flatnonzero(labels.ravel() == label)[0])
    rows, columns = ndimage.find_objects(labels)[first - 1]
    return np.array([columns.start, rows.start, columns.stop, rows.stop])


def check(mask):
    expected = reference_box(mask)
    np.testing.assert_array_equal(region_box_host(mask), expected)
    np.testing.assert_array_equal(boxes_on_device(mask[None])[0], expected)
    assert sorted(map(tuple, all_region_boxes_host(mask).tolist())) == all_reference_boxes(mask)


def all_reference_boxes(mask):
    found = ndimage.find_objects(ndimage.label(mask, np.ones((3, 3)))[0])
    return sorted((x.start, y.start, x.stop, y.stop) for y, x in found)


def drawn(*rows):
    return np.array([[pixel == "#" for pixel in row] for row in rows])


def spiral(size):
    """One component as long as the image allows: the hardest to label by spreading."""
    mask = np.zeros((size, size), bool)
    row, column, down, right = 0, 0, 0, 1
    mask[0, 0] = True
    turns = 0
    while turns < 2:
        ahead = row + 2 * down, column + 2 * right
        inside = 0 <= row + down < size and 0 <= column + right < size
        blocked = 0 <= ahead[0] < size and 0 <= ahead[1] < size and mask[ahead]
        if inside and not blocked and not mask[row + down, column + right]:
            row, column, turns = row + down, column + right, 0
            mask[row, column] = True
        else:
            down, right, turns = right, -down, turns + 1
    return mask


CASES = {
    "empty": np.zeros((9, 7), bool),
    "full": np.ones((9, 7), bool),
    "single pixel": drawn("....", "..#.", "...."),
    "corner pixel": drawn("...", "...", "..#"),
    "border": drawn("####", "#..#", "#..#", "####"),
    "tie, first in raster order": drawn("....#", "##..#", "....."),
    "tie inside one 2x2 block of OpenCV": drawn("..#...", "......", "#....."),
    "diagonal is connected": drawn("#...", ".#..", "..#.", "...#"),
    "two rows apart are not": drawn("##.", "...", "###"),
    "spiral": spiral(31),
    "checkerboard": np.indices((12, 13)).sum(0) % 2 == 0,
    "comb": np.indices((12, 13))[1] % 2 == 0,
}


@pytest.mark.parametrize("mask", CASES.values(), ids=CASES)
def test_by_hand(mask):
    for turned in (mask, mask[::-1], mask[:, ::-1], mask.T):
        check(np.ascontiguousarray(turned))


def test_the_spiral_is_one_long_component():
    assert ndimage.label(CASES["spiral"], np.ones((3, 3)))[1] == 1
    assert CASES["spiral"].sum() > 31 * 31 / 3


@settings(max_examples=60, deadline=None)
@given(npst.arrays(bool, (13, 11), elements=st.booleans()))
def test_any_mask(mask):
    check(mask)


@pytest.mark.parametrize("density", [0.02, 0.1, 0.25, 0.4, 0.6, 0.9])
def test_noise(density):
    masks = np.random.default_rng(0).random((60, 33, 33)) < density
    expected = [reference_box(mask) for mask in masks]
    np.testing.assert_array_equal(boxes_on_device(masks), expected)
    np.testing.assert_array_equal([region_box_host(mask) for mask in masks], expected)


def test_as_many_regions_as_16_bit_labels_just_cannot_count():
    mask = np.zeros((514, 510), bool)
    mask[::2, ::2] = True  # 65,535 single pixels
    np.testing.assert_array_equal(region_box_host(mask), [0, 0, 1, 1])


def test_in_float64_runs_too():
    with jax.enable_x64(True):
        boxes = jax.jit(region_boxes_device)(CASES["comb"][None])
    assert boxes.dtype == np.int32
    np.testing.assert_array_equal(boxes[0], reference_box(CASES["comb"]))


def test_masks_too_large_for_the_labels_are_refused():
    with pytest.raises(ValueError, match="1300x1300"):
        jax.eval_shape(region_boxes_device, jax.ShapeDtypeStruct((1, 1300, 1300), bool))
