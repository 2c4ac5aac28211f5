import math
from fractions import Fraction

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from agcnn_jax.data.coordinates import (
    heat_map_on_film,
    to_input_pixels,
    to_original_pixels,
)


def test_the_papers_sizes_by_hand():
    """The input of 224 is the centre of a stored 256, which is a quarter of 1024."""
    boxes = np.array([[0, 0, 224, 224], [10, 20, 30, 60]])
    sizes = np.array([[1024, 1024], [1024, 1024]])
    expected = [[64, 64, 960, 960], [104, 144, 184, 304]]
    np.testing.assert_array_equal(to_original_pixels(boxes, 224, 256, sizes), expected)


def test_pixels_grow_outwards_and_stay_inside():
    # 100-pixel file: one input pixel is 100/256 of a pixel.
    boxes = to_original_pixels(np.array([[1, 1, 2, 2]]), 224, 256, np.array([[100, 100]]))
    np.testing.assert_array_equal(boxes, [[6, 6, 8, 8]])


@given(st.data())
def test_there_and_back(data):
    stored = data.draw(st.sampled_from([64, 128, 256, 512]))
    input_size = data.draw(st.sampled_from([56, 112, 224, 448]))
    size = data.draw(st.integers(stored, 3000))
    corner = data.draw(st.tuples(*[st.integers(0, input_size - 1)] * 2))
    far = [data.draw(st.integers(c + 1, input_size)) for c in corner]
    box = np.array([[*corner, *far]])
    original = to_original_pixels(box, input_size, stored, np.array([[size, size]]))
    assert (original >= 0).all()
    assert (original <= size).all()
    assert (original[:, 2:] > original[:, :2]).all()
    back = to_input_pixels(original, input_size, stored, np.array([size, size]))
    assert (back[:, :2] <= box[:, :2] + 1e-6).all()
    assert (back[:, 2:] >= box[:, 2:] - 1e-6).all()
    pixel = stored / size * (input_size / (stored * 0.875))
    assert np.abs(back - box).max() <= pixel + 1e-6


def exact(box, input_size, stored, size, to_file):
    """The corners of a box of integers as fractions; the centre crop is 7/8 of the stored side."""
    margin = round(stored / 16)
    crop = Fraction(stored - 2 * margin, input_size)
    if to_file:
        return [(x * crop + margin) * Fraction(size, stored) for x in box]
    return [(Fraction(float(x)) * Fraction(stored, size) - margin) / crop for x in box]


@given(
    st.sampled_from([64, 96, 128, 256, 500]),
    st.sampled_from([56, 64, 224, 448]),
    st.integers(32, 3000),
    st.data(),
)
def test_both_ways_against_fractions(stored, input_size, size, data):
    corners = st.lists(st.integers(0, input_size), min_size=4, max_size=4)
    box = data.draw(corners)
    low, high = exact(box[:2], input_size, stored, size, True), box[2:]
    high = exact(high, input_size, stored, size, True)
    expected = [max(0, math.floor(x)) for x in low] + [min(size, math.ceil(x)) for x in high]
    found = to_original_pixels(np.array([box]), input_size, stored, np.array([[size, size]]))
    assert found[0].tolist() == expected
    corners = [st.integers(0, size), st.floats(1, size, width=32)]
    corner = np.array([data.draw(st.one_of(corners)) for _ in range(4)], np.float32)
    found = to_input_pixels(corner[None], input_size, stored, np.array([size, size]))
    # A fraction becomes the nearest float.
    assert found[0].tolist() == [
        float(x) for x in exact(corner, input_size, stored, size, to_file=False)
    ]


@given(st.integers(64, 700), st.integers(64, 700))
@example(64, 392)
def test_a_ramp_stays_a_ramp_on_the_film(width, height):
    """A heat map that is linear stays linear, and ends at the centre crop."""
    stored, side = 128, 28
    ramp = np.broadcast_to((np.arange(side) + 0.5) / side, (side, side))
    found = heat_map_on_film(ramp, stored, width, height)
    assert found.shape == (height, width) and found.dtype == np.float32
    x = (np.arange(width) + 0.5) / width * stored
    # In whole numbers, so that a centre on the edge does not depend on rounding.
    in_x, in_y = (
        [8 * 2 * size <= (2 * i + 1) * stored < 120 * 2 * size for i in range(size)]
        for size in (width, height)
    )
    inside = np.outer(in_y, in_x)
    expected = np.broadcast_to((x - 8) / 112, (height, width))
    np.testing.assert_array_equal(found[~inside], 0)
    # Half a pixel at either end is flat.
    flat = np.clip(expected, 0.5 / side, 1 - 0.5 / side)
    np.testing.assert_allclose(found[inside], flat[inside], atol=1e-5)


def test_heat_and_box_are_in_the_same_place():
    """The region of a heat map and its box agree on a film of another shape."""
    heat = np.zeros((224, 224), np.float32)
    heat[40:80, 100:180] = 1
    box = np.array([[100, 40, 180, 80]])
    on_film = heat_map_on_film(heat, 256, 1500, 900)
    rows, columns = (np.flatnonzero((on_film > 0.5).any(axis)) for axis in (1, 0))
    found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    expected = to_original_pixels(box, 224, 256, np.array([[1500, 900]]))[0]
    assert np.abs(found - expected).max() <= 1
