"""Convolution as PyTorch pads it; that of one pixel has a gradient which is quick on CPUs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

DIMENSIONS = ("NHWC", "HWIO", "NHWC")

Pair = tuple[jax.Array, jax.Array]


def convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolve, padding like PyTorch's `Conv2d(padding=size // 2)`.

    Args:
        x: `[B, H, W, C]`.
        kernel: `[size, size, C, F]` of the same dtype; `size` is odd.
        stride: step of the kernel in pixels.

    Returns:
        `[B, ceil(H / stride), ceil(W / stride), F]`.
    """
    size = len(kernel)
    if size == 1:
        # The same sums as a convolution. XLA on CPU (jax 0.10) runs the product 1.4 times
        # faster; on GPU and TPU it makes no difference.
        x, weights = x[:, ::stride, ::stride], kernel[0, 0]
        # Inside `shard_map` both must vary over the same axes, as choosing neither's value makes
        # them. The gradient is then summed over these axes as everywhere else.
        pixel, weight = (lax.stop_gradient(array.reshape(-1)[0]) for array in (x, weights))
        return _product(jnp.where(False, weight, x), jnp.where(False, pixel, weights))
    padding = [(size // 2, size // 2)] * 2
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=DIMENSIONS
    )


@jax.custom_vjp
def _product(x: jax.Array, weights: jax.Array) -> jax.Array:
    return jnp.einsum("bhwc,cf->bhwf", x, weights)


def _forward(x: jax.Array, weights: jax.Array) -> tuple[jax.Array, Pair]:
    return _product(x, weights), (x, weights)


def _backward(inputs: Pair, gradient: jax.Array) -> Pair:
    return lax.platform_dependent(
        *inputs, gradient, cpu=product_gradients, default=_gradients_in_any_order
    )


_product.defvjp(_forward, _backward)


def _gradients_in_any_order(x: jax.Array, weights: jax.Array, gradient: jax.Array) -> Pair:
    of_x = jnp.einsum("bhwf,cf->bhwc", gradient, weights)
    return of_x, jnp.einsum("bhwc,bhwf->cf", x, gradient)


def product_gradients(x: jax.Array, weights: jax.Array, gradient: jax.Array) -> Pair:
    """Compute the gradients of the product of each pixel with `weights`, quickly on CPUs.

    XLA transposes the first factor of the sum over pixels. Unless told otherwise it takes the
    gradient first, and computes all that it comes from, BatchNorm's gradient, in transposed order:
    in jumps through memory, ten times slower. The barrier keeps that in its order, and the factor
    with fewer channels comes first.

    Args:
        x: `[B, H, W, C]`.
        weights: `[C, F]`.
        gradient: that of the product, `[B, H, W, F]`.

    Returns:
        Those of `x` and of `weights`.
    """
    gradient = lax.optimization_barrier(gradient)
    of_x = jnp.einsum("bhwf,cf->bhwc", gradient, weights)
    rows, gradient_rows = (array.reshape(-1, array.shape[-1]) for array in (x, gradient))
    over_pixels = (((0,), (0,)), ((), ()))
    if rows.shape[1] > gradient_rows.shape[1]:
        return of_x, lax.dot_general(gradient_rows, rows, over_pixels).T
    return of_x, lax.dot_general(rows, gradient_rows, over_pixels)
