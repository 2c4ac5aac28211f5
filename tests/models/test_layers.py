import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, logit

from agcnn_jax.models.layers import (
    BatchNorm,
    Conv,
    average_pool,
    global_pool,
    max_pool,
    mean_logit,
)


def convolve_by_hand(x, kernel, stride):
    """Sum over the window at every position, zero-padded by half the kernel."""
    size = kernel.shape[0]
    half = size // 2
    padded = np.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))
    height = (x.shape[1] + 2 * half - size) // stride + 1
    width = (x.shape[2] + 2 * half - size) // stride + 1
    out = np.zeros((x.shape[0], height, width, kernel.shape[3]))
    for row in range(height):
        for column in range(width):
            top, left = row * stride, column * stride
            window = padded[:, top : top + size, left : left + size]
            out[:, row, column] = np.einsum("bijc,ijcf->bf", window, kernel)
    return out


@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [8, 9])
def test_convolution_is_the_sum_over_windows(size, stride, side):
    x = np.random.default_rng(0).normal(size=(2, side, side + 1, 3)).astype(np.float32)
    conv = Conv(4, size, stride)
    variables = conv.init(jax.random.key(0), x)
    kernel = np.asarray(variables["params"]["kernel"])
    assert kernel.shape == (size, size, 3, 4)
    np.testing.assert_allclose(
        conv.apply(variables, x), convolve_by_hand(x, kernel, stride), rtol=1e-4, atol=1e-5
    )


SHAPES = [(1, 1), (1, 6), (7, 1), (2, 3), (4, 4), (5, 8), (8, 5), (9, 9)]
"""Odd and even sides, smaller and larger than the window; few, since XLA compiles each shape."""


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_max_pool_is_the_window_maximum(height, width, size):
    rng = np.random.default_rng(height * width * size)
    x = rng.normal(size=(256, height, width, 2)).astype(np.float32)
    # Ties, values of one sign, and infinities.
    x[:32] = np.round(x[:32])
    x[32:64] = -np.abs(x[32:64])
    x[64:96] = rng.choice(np.float32([-np.inf, -1, 0, 1, np.inf]), x[64:96].shape)
    half = size // 2
    padding = ((0, 0), (half, half), (half, half), (0, 0))
    padded = np.pad(x, padding, constant_values=-np.inf)
    expected = np.stack(
        [
            np.stack(
                [
                    padded[:, row : row + size, column : column + size].max(axis=(1, 2))
                    for column in range(0, width + 2 * half - size + 1, 2)
                ],
                axis=1,
            )
            for row in range(0, height + 2 * half - size + 1, 2)
        ],
        axis=1,
    )
    pooled = jax.jit(max_pool, static_argnums=1)(x, size)
    np.testing.assert_array_equal(pooled, expected)


def test_max_pool_gives_the_gradient_of_a_tie_to_the_first_pixel():
    x = jnp.ones((1, 3, 3, 1))
    gradient = jax.grad(lambda x: max_pool(x, 3, 4).sum())(x)
    assert gradient[0, 0, 0, 0] == 1.0
    assert gradient.sum() == 1.0


def test_tpus_pool_over_windows_with_the_same_gradient():
    """Of ties too, which few distinct values make."""
    x = np.random.default_rng(2).integers(0, 3, (2, 9, 8, 3)).astype(np.float32)
    weights = np.random.default_rng(3).normal(size=(2, 5, 4, 3))

    def gradient(pool):
        return jax.grad(lambda x: (pool(x) * weights).sum())

    def windows(x):
        return nn.max_pool(x, (3, 3), (2, 2), [(1, 1), (1, 1)])

    np.testing.assert_array_equal(max_pool(x), windows(x))
    np.testing.assert_allclose(gradient(max_pool)(x), gradient(windows)(x), rtol=1e-6)
    traced = jax.jit(gradient(max_pool)).trace(x)
    assert "select_and_scatter" in traced.lower(lowering_platforms=("tpu",)).as_text()
    assert "select_and_scatter" not in traced.lower(lowering_platforms=("cpu",)).as_text()


def test_average_pool_drops_a_remainder():
    x = jnp.arange(25.0).reshape(1, 5, 5, 1)
    np.testing.assert_array_equal(average_pool(x)[0, :, :, 0], [[3, 5], [13, 15]])


def test_global_pool():
    x = jnp.arange(8.0).reshape(1, 2, 2, 2)
    np.testing.assert_array_equal(global_pool(x, "max"), [[6, 7]])
    np.testing.assert_array_equal(global_pool(x, "avg"), [[3, 4]])
    assert global_pool(x.astype(jnp.bfloat16), "max").dtype == jnp.float32
    with pytest.raises(ValueError, match="median"):
        global_pool(x, "median")


class TestBatchNorm:
    x = np.random.default_rng(1).normal(5.0, 3.0, size=(4, 3, 2, 6)).astype(np.float32)

    def test_normalises_by_the_batch_and_updates_unbiased(self):
        norm = BatchNorm()
        variables = norm.init(jax.random.key(0), self.x, False)
        y, updated = norm.apply(variables, self.x, True, mutable=["batch_stats"])
        flat = self.x.reshape(-1, 6).astype(np.float64)
        expected = (flat - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5)
        np.testing.assert_allclose(y.reshape(-1, 6), expected, atol=1e-5)
        np.testing.assert_allclose(updated["batch_stats"]["mean"], 0.1 * flat.mean(0), rtol=1e-5)
        np.testing.assert_allclose(
            updated["batch_stats"]["var"], 0.9 + 0.1 * flat.var(0, ddof=1), rtol=1e-5
        )

    def test_known_statistics_are_those_it_would_compute(self):
        norm = BatchNorm()
        first = norm.init(jax.random.key(0), self.x[..., :4], False)
        both = norm.init(jax.random.key(0), self.x, False)
        normalise = functools.partial(
            norm.apply, mutable=["batch_stats"], method=BatchNorm.normalise
        )
        maps = [self.x[..., :4], self.x[..., 4:]]
        (_, known), _ = normalise(first, maps[:1], True)
        expected, expected_stats = normalise(both, [self.x], True)
        found, stats = normalise(both, maps, True, known)
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-6),
            (found, stats),
            (expected, expected_stats),
        )

    def test_inference_uses_the_running_statistics(self):
        norm = BatchNorm()
        variables = {
            "params": {"scale": jnp.full(6, 2.0), "bias": jnp.full(6, 1.0)},
            "batch_stats": {"mean": jnp.full(6, 5.0), "var": jnp.full(6, 9.0)},
        }
        y = norm.apply(variables, self.x, False)
        np.testing.assert_allclose(y, 1 + 2 * (self.x - 5) / np.sqrt(9 + 1e-5), atol=1e-5)

    def test_running_mean_near_a_large_offset_keeps_the_digits_of_the_variance(self):
        norm = BatchNorm()
        offset = 1e4
        variables = norm.init(jax.random.key(0), self.x, False)
        variables["batch_stats"]["mean"] = jnp.full(6, offset)
        _, updated = norm.apply(variables, self.x + offset, True, mutable=["batch_stats"])
        shifted = (self.x + np.float32(offset)).reshape(-1, 6).astype(np.float64)
        np.testing.assert_allclose(
            updated["batch_stats"]["var"], 0.9 + 0.1 * shifted.var(0, ddof=1), rtol=1e-5
        )

    def test_mapped_over_devices_it_normalises_the_whole_batch(self):
        norm = BatchNorm(axis_name="batch")
        variables = BatchNorm().init(jax.random.key(0), self.x, False)
        whole, stats = BatchNorm().apply(variables, self.x, True, mutable=["batch_stats"])
        parts, part_stats = jax.vmap(
            lambda x: norm.apply(variables, x, True, mutable=["batch_stats"]), axis_name="batch"
        )(self.x.reshape(4, 1, 3, 2, 6))
        np.testing.assert_allclose(parts.reshape(whole.shape), whole, atol=1e-5)
        for name in ("mean", "var"):
            for part in part_stats["batch_stats"][name]:
                np.testing.assert_allclose(part, stats["batch_stats"][name], rtol=1e-5)

    @pytest.mark.parametrize("train", [True, False])
    @pytest.mark.parametrize("offset", [0.0, 2.0, 8.0])
    def test_bfloat16_moves_no_channel(self, offset, train):
        rng = np.random.default_rng(2)
        x = jnp.asarray(rng.normal(offset, 1.0, (16, 28, 28, 64)), jnp.bfloat16)
        flat = np.asarray(x, np.float64).reshape(-1, 64)
        scale, bias = rng.uniform(0.5, 2.0, (2, 64)).astype(np.float32)
        mean, var = (getattr(flat, name)(0).astype(np.float32) for name in ("mean", "var"))
        variables = {
            "params": {"scale": scale, "bias": bias},
            "batch_stats": {"mean": mean, "var": var},
        }
        y, _ = BatchNorm(dtype=jnp.bfloat16).apply(variables, x, train, mutable=["batch_stats"])
        assert y.dtype == jnp.bfloat16
        exact = scale * (flat - mean) / np.sqrt(var + 1e-5) + bias
        error = np.asarray(y, np.float64).reshape(-1, 64) - exact
        assert np.abs(error.mean(0) / scale).max() < 1e-3
        # Rounded once to 8 binary digits, plus the error of float32.
        assert (np.abs(error) <= np.abs(exact) * 2**-8 + 1e-5).all()


def test_the_logit_of_a_mean_probability():
    logits = np.random.default_rng(0).normal(0, 4, (10, 7))
    expected = logit(expit(logits).mean(axis=0))
    np.testing.assert_allclose(mean_logit(jnp.float32(logits)), expected, rtol=2e-5)
    # These probabilities round to 1 and to 0; their mean is 1 - exp(-50) (1 + exp(-2)) / 2.
    tail = 50 - np.log((1 + np.exp(-2)) / 2)
    pair = jnp.float32([[50.0, -50.0], [52.0, -52.0]])
    np.testing.assert_allclose(mean_logit(pair), [tail, -tail], rtol=1e-6)
