"""Heat map, mask and crop, by hand, against OpenCV, and host against device."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from agcnn_jax.attention.attend import attend
from agcnn_jax.attention.boxes import centred_boxes
from agcnn_jax.attention.crop import boxes_host, resample_host
from agcnn_jax.attention.heatmap import heat_map, heat_map_mask
from agcnn_jax.attention.resample import crop_and_resize

crop_jit = jax.jit(crop_and_resize, static_argnums=2)


class TestHeatMap:
    features = jnp.array([[[[1.0, -4.0], [3.0, 0.0]], [[-2.0, 2.0], [0.0, 0.0]]]])

    def test_max_is_equation_3_scaled_to_0_1(self):
        np.testing.assert_allclose(heat_map(self.features, 2)[0], [[1.0, 0.75], [0.5, 0.0]])

    def test_l1(self):
        expected = np.array([[5, 3], [4, 0]]) / 5
        np.testing.assert_allclose(heat_map(self.features, 2, "l1")[0], expected)

    def test_l2(self):
        root = np.sqrt([[17, 9], [8, 0]])
        np.testing.assert_allclose(
            heat_map(self.features, 2, "l2")[0], root / root.max(), rtol=1e-6
        )

    @pytest.mark.parametrize("statistic", ["max", "l1", "l2"])
    @pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
    def test_the_scale_does_not_matter(self, statistic, scale):
        # Squares of such activations are beyond float32's range.
        scaled = heat_map(self.features * jnp.float32(scale), 4, statistic)
        np.testing.assert_allclose(scaled, heat_map(self.features, 4, statistic), atol=1e-6)

    def test_each_image_has_its_own_range(self):
        pair = jnp.concatenate([self.features, 100 * self.features])
        np.testing.assert_allclose(heat_map(pair, 4)[0], heat_map(pair, 4)[1], rtol=1e-6)

    def test_scaled_after_resizing(self):
        # Enlarging four times, the inner peak of 1 is met an eighth of a cell off in both
        # directions: (7/8)^2 is the largest value that is left of it.
        peak = jnp.zeros((1, 3, 3, 1)).at[0, 1, 1].set(1.0)
        heat = np.asarray(heat_map(peak, 12)[0])
        assert heat.max() == 1.0
        assert (heat == 1.0).sum() == 4
        # The next pixel lies 3/8 off in one direction.
        np.testing.assert_allclose(heat[5, 4], (5 / 8) / (7 / 8), rtol=1e-6)

    @pytest.mark.parametrize("size", [32, 37])
    def test_flat_map_is_zero_and_its_box_the_whole_image(self, size):
        values = jnp.array([0.0, 2.5, 0.1, 1e-30, 3e30])
        flat = jnp.broadcast_to(values[:, None, None, None], (5, 7, 7, 3))
        images = jnp.broadcast_to(
            jnp.arange(float(size * size)).reshape(size, size), (5, size, size)
        )
        heat, _, boxes, local = attend_jit(images, flat, "max", 0.7)
        assert not heat.any()
        np.testing.assert_array_equal(boxes, [[0, 0, size, size]] * 5)
        np.testing.assert_array_equal(local, images)

    def test_a_map_that_is_not_quite_flat_is_seen_in_full(self):
        # The steps of a ramp are a float32's last digit: what resizing rounds must not hide them.
        ramp = 1000 + np.arange(7, dtype=np.float32) * np.spacing(np.float32(1000))
        features = jnp.broadcast_to(ramp[None, None, :, None], (1, 7, 7, 1))
        expected = heat_map(
            jnp.broadcast_to(jnp.arange(7.0)[None, None, :, None], (1, 7, 7, 1)), 56
        )
        np.testing.assert_allclose(heat_map(features, 56), expected, atol=1e-6)

    def test_bfloat16_features_give_a_float32_map(self):
        assert heat_map(self.features.astype(jnp.bfloat16), 4).dtype == jnp.float32

    def test_no_gradient_flows_through(self):
        gradient = jax.grad(lambda f: heat_map(f, 4).sum())(self.features)
        assert not gradient.any()

    def test_unknown_statistic(self):
        with pytest.raises(ValueError, match="median"):
            heat_map(self.features, 4, "median")

    def test_mask_is_strictly_above_tau(self):
        heat = jnp.array([[[0.0, 0.5], [0.7, 1.0]]], jnp.float32)
        mask = heat_map_mask(heat, 0.5)
        np.testing.assert_array_equal(mask[0], [[False, False], [True, True]])


def feature_maps(rng):
    """Feature maps of many kinds: inner peaks, plateaus, ramps, few and far values."""
    side = int(rng.choice([1, 3, 7, 8]))  # each is compiled
    shape = (5, side, side, 3)
    peaks = np.zeros(shape)
    peaks[np.arange(5), rng.integers(side, size=5), rng.integers(side, size=5)] = 1
    kinds = [
        peaks,
        rng.random(shape),
        np.round(rng.random(shape) * 2),
        rng.random(shape) ** 20 * 10.0 ** rng.integers(-6, 6, (5, 1, 1, 1)),
        1e4 + rng.random(shape) * 10.0 ** rng.integers(-3, 2, (5, 1, 1, 1)),
    ]
    return np.concatenate(kinds).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["max", "l1", "l2"]),
    st.lists(st.floats(0, 1, exclude_max=True), min_size=2, max_size=6),
)
def test_a_larger_tau_never_gives_a_larger_region(seed, statistic, taus):
    rng = np.random.default_rng(seed)
    features = feature_maps(rng)
    size = int(rng.choice([9, 31]))
    heat = np.asarray(heat_map_jit(features, size, statistic))
    response = {"max": np.max, "l1": np.mean, "l2": np.linalg.norm}[statistic](
        np.abs(features.astype(np.float64)), axis=-1
    )
    # A sum of three float32 numbers, its root and its quotient round by up to 2.5e-7 each way.
    least = 1e-7 if statistic == "max" else 5e-7
    flat = np.ptp(response.astype(np.float32), axis=(1, 2)) <= least * response.max(axis=(1, 2))
    for image in np.flatnonzero(~flat):
        assert heat[image].min() == 0.0
        assert heat[image].max() == 1.0
        areas = []
        for tau in sorted({*taus, 0.9, 0.97, 0.999, 1 - 1e-12}):
            components, count = ndimage.label(heat_map_mask(heat[image], tau), np.ones((3, 3)))
            assert count > 0, tau
            areas.append(np.bincount(components.ravel())[1:].max())
        assert areas == sorted(areas, reverse=True)


def resize_jit(images, size):
    """Crop whole images."""
    _, height, width = images.shape
    return crop_jit(images, jnp.tile(jnp.array([0, 0, width, height]), (len(images), 1)), size)


@pytest.mark.parametrize(("source", "target"), [(7, 224), (3, 32), (8, 30)])
def test_enlarging_is_opencvs_bilinear(source, target):
    heat = np.random.default_rng(0).random((2, source, source)).astype(np.float32)
    expected = [cv2.resize(one, (target, target), interpolation=cv2.INTER_LINEAR) for one in heat]
    np.testing.assert_allclose(resize_jit(heat, target), expected, atol=1e-5)


def test_shrinking_is_pils_antialiased_bilinear():
    image = np.random.default_rng(0).random((64, 64)).astype(np.float32)
    expected = Image.fromarray(image).resize((24, 24), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(resize_jit(image[None], 24)[0], expected, atol=1e-5)


def test_same_size_changes_nothing():
    image = np.random.default_rng(0).integers(0, 256, (1, 40, 40)).astype(np.float32)
    np.testing.assert_array_equal(resize_jit(image, 40), image)


def test_pixels_outside_the_box_do_not_bleed_in():
    image = np.full((1, 16, 16), 255.0, np.float32)
    image[:, 4:8, 4:8] = 10.0
    local = crop_jit(image, np.array([[4, 4, 8, 8]]), 16)
    np.testing.assert_allclose(local, 10.0, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 0.3, 0.7, 0.95, 0.999]),
    st.sampled_from(["crop", "centred"]),
)
def test_host_and_device_agree(seed, tau, local_input):
    rng = np.random.default_rng(seed)
    images = (rng.random((4, 48, 48)) * 255).astype(np.float32)
    # Sparse, quantised features: plateaus, ties and flat maps occur.
    features = np.round(rng.random((4, 3, 3, 5)) * rng.integers(1, 4), 0).astype(np.float32)
    features[0] = 1.0
    _, _, boxes_device, local_device = attend_jit(images, features, "max", tau, local_input)
    masks = masks_on_device(features, tau)
    boxes = boxes_host(np.asarray(masks))
    if local_input == "centred":
        boxes = centred_boxes(boxes, 48)
    local_host = resample_host(images, boxes)
    np.testing.assert_array_equal(boxes, boxes_device)
    assert np.abs(local_host - local_device).max() < 255 * 1e-4


attend_jit = jax.jit(attend, static_argnums=(2, 4))
masks_on_device = jax.jit(lambda features, tau: heat_map_mask(heat_map(features, 48, "max"), tau))
heat_map_jit = jax.jit(heat_map, static_argnums=(1, 2))
