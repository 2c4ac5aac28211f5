"""The gradients of one-pixel convolutions that CPUs compute are those of the convolution itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax import lax
from jax.sharding import PartitionSpec

from agcnn_jax.models.convolution import convolve


def reference(x, kernel, stride):
    """Convolve as XLA does, which differentiates it by its own rules."""
    padding = [(len(kernel) // 2,) * 2] * 2
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


# A product in either order of its factors, which chance would not meet each time.
@example(size=1, stride=1, shape=(4, 5), channels=5, features=3, seed=0)
@example(size=1, stride=1, shape=(4, 5), channels=3, features=5, seed=0)
@settings(max_examples=3, deadline=None)
@given(
    size=st.sampled_from([1, 3]),
    stride=st.integers(1, 3),
    shape=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    channels=st.integers(1, 9),
    features=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_gradients_are_those_of_xla(size, stride, shape, channels, features, seed):
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):
        x = jnp.asarray(rng.standard_normal((2, *shape, channels)))
        kernel = jnp.asarray(rng.standard_normal((size, size, channels, features)))
        expected, pull_back = jax.vjp(lambda x, kernel: reference(x, kernel, stride), x, kernel)
        found, ours = jax.vjp(lambda x, kernel: convolve(x, kernel, stride), x, kernel)
        np.testing.assert_allclose(found, expected, atol=1e-12)
        gradient = jnp.asarray(rng.standard_normal(expected.shape))
        for one, other in zip(ours(gradient), pull_back(gradient), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-12)


@pytest.mark.parametrize("shared", [0, 1], ids=["images", "kernel"])
def test_what_devices_share_gets_the_sum_of_their_gradients(shared):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 5, 5, 4)).astype(np.float32)
    kernel = rng.standard_normal((1, 1, 4, 6)).astype(np.float32)
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))

    def gradient(*both):
        both = list(both)
        both[1 - shared] = lax.pcast(both[1 - shared], "batch", to="varying")
        return jax.grad(lambda *both: jnp.square(convolve(*both, 1)).sum(), shared)(*both)

    specs = PartitionSpec(), PartitionSpec()
    mapped = jax.shard_map(gradient, mesh=mesh, in_specs=specs, out_specs=PartitionSpec())
    expected = jax.grad(lambda *both: jnp.square(reference(*both, 1)).sum(), shared)(x, kernel)
    np.testing.assert_allclose(jax.jit(mapped)(x, kernel), 2 * expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("platform", "barriers"), [("cpu", 1), ("tpu", 0), ("cuda", 0)])
def test_only_cpus_are_kept_from_xlas_own_gradients(platform, barriers):
    x, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((1, 1, 2, 3))
    gradient = jax.jit(jax.grad(lambda x, kernel: convolve(x, kernel, 1).sum(), argnums=(0, 1)))
    lowered = gradient.trace(x, kernel).lower(lowering_platforms=(platform,))
    assert lowered.as_text().count("optimization_barrier") == barriers
