"""Crops from stored images: boxes by hand and by their laws, and host against device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agcnn_jax.attention.attend import attend
from agcnn_jax.attention.crop import crop_stored_host, resample_host
from agcnn_jax.attention.stored import Stored, crop_stored, stored_boxes
from agcnn_jax.data.augment import centre_box, centre_crop, window_views
from tests.attention.test_boxes import boxes_in

crop_jit = jax.jit(crop_stored, static_argnums=(2, 3))
SIZE, COUNT = 24, 4


def test_boxes_by_hand():
    boxes = np.array([[10, 20, 30, 40], [10, 20, 30, 40], [1, 0, 3, 2], [0, 0, 224, 224]], np.int32)
    windows = np.array([[64, 64, 960, 960], [64, 64, 960, 960], [3, 5, 395, 12], [0, 1, 2, 3]])
    mirrored = np.array([False, True, False, True])
    expected = [
        [104, 144, 184, 224],  # four stored pixels for one of the input
        [840, 144, 920, 224],  # 194 to 214 before the input was mirrored
        [4, 5, 9, 6],  # 1.75 to 5.25, and 0 to 1/16 of a pixel, both growing
        [0, 1, 2, 3],
    ]
    found = stored_boxes(boxes, windows.astype(np.int32), mirrored, 224)
    np.testing.assert_array_equal(found, expected)


@given(st.data(), st.integers(1, 1289), st.integers(1, 4096))
def test_boxes_grow_by_less_than_a_pixel_and_stay_in_the_window(data, size, stored_size):
    boxes = data.draw(boxes_in(size))
    count = len(boxes)
    windows = np.concatenate([data.draw(boxes_in(stored_size)) for _ in boxes])[:count]
    mirrored = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    found = stored_boxes(boxes, windows, mirrored, size)
    assert found.dtype == np.int32
    low, sides = windows[:, :2], windows[:, 2:] - windows[:, :2]
    xmin, ymin, xmax, ymax = boxes.T
    left, right = np.where(mirrored, (size - xmax, size - xmin), (xmin, xmax))
    exact = np.stack([left, ymin, right, ymax], axis=1) / size
    growth = found - (exact.reshape(-1, 2, 2) * sides[:, None] + low[:, None]).reshape(-1, 4)
    assert (growth[:, :2] <= 1e-9).all()
    assert (growth[:, :2] > -1 - 1e-9).all()
    assert (growth[:, 2:] >= -1e-9).all()
    assert (growth[:, 2:] < 1 + 1e-9).all()
    assert (found[:, :2] >= low).all()
    assert (found[:, 2:] <= windows[:, 2:]).all()
    assert (found[:, 2:] > found[:, :2]).all()
    on_device = stored_boxes(*map(jnp.asarray, (boxes, windows, mirrored)), size)
    assert on_device.dtype == jnp.int32
    np.testing.assert_array_equal(on_device, found)


def draw_case(rng, stored_size):
    """Stored images, windows, flips and boxes of all kinds."""

    def boxes_within(size):
        edges = np.sort(rng.integers(0, size, (COUNT, 2, 2)), axis=1)
        edges[:, 1] += 1
        return edges.reshape(COUNT, 4).astype(np.int32)

    images = rng.integers(0, 256, (COUNT, stored_size, stored_size), np.uint8)
    mirrored = rng.random(COUNT) < 0.5
    return Stored(images, boxes_within(stored_size), mirrored), boxes_within(SIZE)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.sampled_from([20, 100]))
def test_host_and_device_agree(seed, stored_size):
    """Whether a box is enlarged or shrunk, and where it is both."""
    stored, boxes = draw_case(np.random.default_rng(seed), stored_size)
    on_device = crop_jit(stored, boxes, SIZE, jnp.float32)
    on_host = crop_stored_host(stored, boxes, SIZE, np.float32)
    assert on_host.dtype == on_device.dtype == np.float32
    assert np.abs(on_host - on_device).max() < 255 * 1e-4


@pytest.mark.parametrize("stored_size", [20, 100])
def test_a_mirrored_input_is_one_of_the_mirrored_image(stored_size):
    stored, boxes = draw_case(np.random.default_rng(0), stored_size)
    images, (xmin, ymin, xmax, ymax) = stored.images, stored.windows.T
    turned = Stored(
        images[:, :, ::-1],
        np.stack([stored_size - xmax, ymin, stored_size - xmin, ymax], axis=1),
        np.zeros(COUNT, bool),
    )
    made = crop_jit(stored._replace(mirrored=np.ones(COUNT, bool)), boxes, SIZE, jnp.float32)
    wanted = crop_jit(turned, boxes, SIZE, jnp.float32)
    np.testing.assert_allclose(made, wanted, atol=255 * 1e-4)


def test_the_papers_centre_crop_copies_stored_pixels():
    """256 stored, 224 input: the crop is the input's, bit for bit on the host."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (COUNT, 256, 256), np.uint8)
    inputs = centre_crop(images, 224)
    views = window_views(COUNT, np.array([*centre_box(256)[:2], 0]), 256)
    stored = Stored(images, *map(np.asarray, views))
    features = rng.random((COUNT, 7, 7, 3)).astype(np.float32) ** 4
    attend_jit = jax.jit(attend, static_argnums=(2, 4))
    usual = attend_jit(inputs, features, "max", 0.7, "crop")
    seen = attend_jit(inputs, features, "max", 0.7, "crop", stored)
    np.testing.assert_array_equal(seen.boxes, usual.boxes)
    assert (usual.boxes[:, 2:] - usual.boxes[:, :2] < 224).any()
    assert np.abs(seen.local_images - usual.local_images).max() < 255 * 1e-4
    boxes = np.asarray(usual.boxes)
    usual_host = resample_host(np.asarray(inputs), boxes)
    seen_host = crop_stored_host(stored, boxes, 224, np.float32)
    np.testing.assert_array_equal(seen_host, usual_host)


def test_float64_crops():
    stored, boxes = draw_case(np.random.default_rng(0), 100)
    double = crop_stored_host(stored, boxes, SIZE, np.float64)
    single = crop_stored_host(stored, boxes, SIZE, np.float32)
    assert double.dtype == np.float64
    np.testing.assert_allclose(double, single, atol=255 * 1e-4)
