"""Boxes that are made from attended boxes, by hand and by their laws."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agcnn_jax.attention.boxes import centred_boxes


@st.composite
def boxes_in(draw, size):
    """A batch of boxes int32 `[B, 4]` inside images of a side."""
    edges = st.lists(st.integers(0, size), min_size=2, max_size=2, unique=True).map(sorted)
    pairs = draw(st.lists(st.tuples(edges, edges), min_size=1, max_size=5))
    return np.array([[x[0], y[0], x[1], y[1]] for x, y in pairs], np.int32)


def test_centred_boxes_by_hand():
    boxes = np.array([[0, 1, 4, 8], [2, 0, 3, 8], [0, 0, 8, 8], [5, 5, 8, 8]], np.int32)
    # An odd remainder leaves one more pixel on the right, or below.
    expected = [[2, 0, 6, 7], [3, 0, 4, 8], [0, 0, 8, 8], [2, 2, 5, 5]]
    np.testing.assert_array_equal(centred_boxes(boxes, 8), expected)


@given(st.data(), st.integers(1, 1289))
def test_centred_boxes_keep_their_size_and_are_in_the_centre(data, size):
    boxes = data.draw(boxes_in(size))
    centred = centred_boxes(boxes, size)
    assert centred.dtype == np.int32
    np.testing.assert_array_equal(centred[:, 2:] - centred[:, :2], boxes[:, 2:] - boxes[:, :2])
    low, high = centred[:, :2], size - centred[:, 2:]
    assert (low >= 0).all()
    assert np.isin(high - low, [0, 1]).all()
    on_device = centred_boxes(jnp.asarray(boxes), size)
    assert on_device.dtype == jnp.int32
    np.testing.assert_array_equal(on_device, centred)
