"""The gradients that CPUs compute are those of the convolution itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.sharding import PartitionSpec

from agcnn_jax.models.convolution import convolve, input_gradient, kernel_gradient


def reference(x, kernel, stride):
    """Convolve as XLA does, which differentiates it by its own rules."""
    padding = [(len(kernel) // 2,) * 2] * 2
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@settings(max_examples=25, deadline=None)
@given(
    size=st.sampled_from([1, 3, 7]),
    stride=st.integers(1, 3),
    shape=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    channels=st.integers(1, 9),
    features=st.integers(1, 30),
    seed=st.integers(0, 99),
)
def test_gradients_are_those_of_xla(size, stride, shape, channels, features, seed):
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):
        x = jnp.asarray(rng.standard_normal((2, *shape, channels)))
        kernel = jnp.asarray(rng.standard_normal((size, size, channels, features)))
        expected, pull_back = jax.vjp(lambda x, kernel: reference(x, kernel, stride), x, kernel)
        np.testing.assert_allclose(convolve(x, kernel, stride), expected, atol=1e-12)
        gradient = jnp.asarray(rng.standard_normal(expected.shape))
        of_x, of_kernel = pull_back(gradient)
        np.testing.assert_allclose(
            input_gradient(kernel, gradient, stride, shape), of_x, atol=1e-12
        )
        np.testing.assert_allclose(
            kernel_gradient(x, gradient, size, stride), of_kernel, atol=1e-12
        )


@pytest.mark.parametrize("replicated", ["x", "kernel"])
def test_what_devices_share_gets_the_sum_of_their_gradients(replicated):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, 5, 5, 4)).astype(np.float32)
    kernel = rng.standard_normal((3, 3, 4, 6)).astype(np.float32)
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))

    def gradient(x, kernel):
        # The same loss on both sides, whichever argument differs between the devices.
        varying = lax.pcast(kernel if replicated == "x" else x, "batch", to="varying")
        arguments = (x, varying) if replicated == "x" else (varying, kernel)

        def loss(shared):
            return jnp.square(
                convolve(shared, arguments[1], 1)
                if replicated == "x"
                else convolve(arguments[0], shared, 1)
            ).sum()

        return jax.grad(loss)(x if replicated == "x" else kernel)

    specs = PartitionSpec(), PartitionSpec()
    mapped = jax.shard_map(gradient, mesh=mesh, in_specs=specs, out_specs=PartitionSpec())
    found = jax.jit(mapped)(x, kernel)
    argument = 0 if replicated == "x" else 1
    expected = jax.grad(lambda *both: jnp.square(reference(*both, 1)).sum(), argument)(x, kernel)
    np.testing.assert_allclose(found, 2 * expected, rtol=1e-4, atol=1e-3)
