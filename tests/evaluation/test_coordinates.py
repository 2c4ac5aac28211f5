import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agcnn_jax.evaluation.coordinates import to_input_pixels, to_original_pixels


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
