"""Convolution as PyTorch pads it, and its gradient in the form that is fastest on CPUs.

XLA differentiates a convolution into convolutions with other dimensions in the place of batch,
features and positions. Accelerators run these as fast as the first. On CPUs the kernel's gradient
runs at a tenth of the speed, and so does a strided input's; matrix products and a convolution
without a stride compute the same sums (`benchmarks/beside_pytorch.py` measures the whole step).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolve, padding like PyTorch's `Conv2d(padding=size // 2)`.

    Args:
        x: `[B, H, W, C]`.
        kernel: `[size, size, C, F]` of the same dtype; `size` is odd.
        stride: step of the kernel in pixels.

    Returns:
        `[B, ceil(H / stride), ceil(W / stride), F]`.
    """
    # Inside `shard_map` both must vary over the same axes, which choosing neither's value achieves.
    # The gradient is then summed over them as everywhere else.
    pixel, weight = (lax.stop_gradient(array.reshape(-1)[0]) for array in (x, kernel))
    x, kernel = jnp.where(False, weight, x), jnp.where(False, pixel, kernel)
    return _with_gradient(x, kernel, stride)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _with_gradient(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    return _convolve(x, kernel, stride)


def _convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    size = len(kernel)
    if size == 1:
        # The same sums as a convolution. XLA on CPU (jax 0.10) runs the product 1.4 times
        # faster; on GPU and TPU it makes no difference.
        return jnp.einsum("bhwc,cf->bhwf", x[:, ::stride, ::stride], kernel[0, 0])
    padding = [(size // 2, size // 2)] * 2
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=DIMENSIONS
    )


def _forward(
    x: jax.Array, kernel: jax.Array, stride: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _convolve(x, kernel, stride), (x, kernel)


def _backward(
    stride: int, inputs: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    def by_xla(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
        _, pull_back = jax.vjp(lambda x, kernel: _convolve(x, kernel, stride), x, kernel)
        dx, dk = pull_back(gradient)
        return dx, dk

    def on_cpu(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
        # Products may want the gradient transposed. Without the barrier XLA computes all that it
        # comes from, BatchNorm's gradient, in that order, jumping through memory.
        gradient = lax.optimization_barrier(gradient)
        dx = input_gradient(kernel, gradient, stride, x.shape[1:3])
        return dx, kernel_gradient(x, gradient, len(kernel), stride)

    return lax.platform_dependent(*inputs, gradient, cpu=on_cpu, default=by_xla)


_with_gradient.defvjp(_forward, _backward)


def input_gradient(
    kernel: jax.Array, gradient: jax.Array, stride: int, shape: Sequence[int]
) -> jax.Array:
    """Compute the gradient of `convolve` by its input.

    Args:
        kernel: `[size, size, C, F]`.
        gradient: that of the output, `[B, H', W', F]`.
        stride: step of the kernel in pixels.
        shape: height H and width W of the input.

    Returns:
        `[B, H, W, C]`.
    """
    size = len(kernel)
    if size == 1:
        return _spread(jnp.einsum("bhwf,cf->bhwc", gradient, kernel[0, 0]), stride, shape)
    flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    return _convolve(_spread(gradient, stride, shape), flipped, 1)


def kernel_gradient(x: jax.Array, gradient: jax.Array, size: int, stride: int) -> jax.Array:
    """Compute the gradient of `convolve` by its kernel: for each tap, a product of two matrices.

    Args:
        x: the input, `[B, H, W, C]`.
        gradient: that of the output, `[B, H', W', F]`.
        size: side of the kernel in pixels.
        stride: step of the kernel in pixels.

    Returns:
        `[size, size, C, F]`.
    """
    channels, features = x.shape[-1], gradient.shape[-1]
    if stride == 1 and size > 1 and features < channels:
        # Shift the narrower side, in one product for all taps.
        shifted = jnp.concatenate(_taps(gradient, size, 1, gradient.shape[1:3])[::-1], axis=-1)
        product = _product(shifted, x).reshape(size, size, features, channels)
        return product.swapaxes(2, 3)
    taps = _taps(x, size, stride, gradient.shape[1:3])
    if channels < features / size:
        # The stem's three channels make narrow products.
        taps = [jnp.concatenate(taps, axis=-1)]
    products = jnp.stack([_product(tap, gradient) for tap in taps])
    return products.reshape(size, size, channels, features)


def _taps(x: jax.Array, size: int, stride: int, shape: Sequence[int]) -> list[jax.Array]:
    """Take the pixels that each tap of a kernel reads, `[B, *shape, C]`, in raster order."""
    half = size // 2
    padded = jnp.pad(x, [(0, 0), (half, half), (half, half), (0, 0)])
    height, width = (stride * (length - 1) + 1 for length in shape)
    return [
        padded[:, row : row + height : stride, column : column + width : stride]
        for row in range(size)
        for column in range(size)
    ]


def _spread(x: jax.Array, stride: int, shape: Sequence[int]) -> jax.Array:
    """Put pixels `[B, H', W', C]` `stride` pixels apart, with zeros between them."""
    rows, columns = (
        (0, length - 1 - stride * (count - 1), stride - 1)
        for length, count in zip(shape, x.shape[1:3], strict=True)
    )
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), rows, columns, (0, 0, 0)])


def _product(first: jax.Array, second: jax.Array) -> jax.Array:
    """Sum the outer products of all pixels: `[..., C]` and `[..., F]` to `[C, F]`."""
    if first.shape[-1] > second.shape[-1]:
        return _product(second, first).T  # XLA transposes the first: the narrower is quicker
    left, right = (array.reshape(-1, array.shape[-1]) for array in (first, second))
    return lax.dot_general(left, right, (((0,), (0,)), ((), ())))
