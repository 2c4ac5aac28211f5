"""Bilinear resampling of boxes, with half-pixel centres and clamped edges, for use inside jit."""

from __future__ import annotations

import jax
import jax.numpy as jnp

# Resampling is interpolation of pixels: the factors must not be rounded to bfloat16, as TPUs (and
# to TF32, as recent GPUs) do by default in float32 products.
PRECISION = jax.lax.Precision.HIGHEST


def interpolation_matrix(start: jax.Array, stop: jax.Array, source: int, target: int) -> jax.Array:
    """Weights that resample the span `[start, stop)` of `source` pixels to `target` pixels.

    Target pixel i, whose centre is at `i + 0.5`, takes the value at
    `start + (i + 0.5) * (stop - start) / target - 0.5` between the source's pixel centres. Pixels
    outside the span do not bleed in, as if the box had been cut out first and resized then; at its
    edges the weights that remain are scaled to sum to 1, which clamps. Where the span is shrunk,
    the triangle of weights widens by the same factor, as PIL's and torchvision's antialiasing do.

    Args:
        start: first coordinate of the span in pixels, float or int, any shape `[...]`.
        stop: end of the span, exclusive, in the same form.
        source: number of source pixels.
        target: number of target pixels.

    Returns:
        float32 `[..., target, source]`; rows sum to 1.
    """
    start = jnp.asarray(start, jnp.float32)[..., None, None]
    stop = jnp.asarray(stop, jnp.float32)[..., None, None]
    scale = (stop - start) / target
    pixel = jnp.arange(source, dtype=jnp.float32)
    centre = jnp.arange(target, dtype=jnp.float32)[:, None] + 0.5
    position = start + centre * scale - 0.5
    weights = jnp.maximum(0.0, 1.0 - jnp.abs(position - pixel) / jnp.maximum(scale, 1.0))
    weights = jnp.where((pixel >= jnp.floor(start)) & (pixel < stop), weights, 0.0)
    return weights / weights.sum(axis=-1, keepdims=True)


def crop_and_resize(images: jax.Array, boxes: jax.Array, size: int) -> jax.Array:
    """Cut a box out of each image and resize it to `size` x `size` pixels.

    Bilinear with half-pixel centres, edges clamped to the box, antialiased only where the box is
    shrunk (the crops of Section III-B never are). Written as two products with interpolation
    matrices, which suits matrix units better than gathering pixels.

    Args:
        images: `[B, H, W]`, any real dtype.
        boxes: `[B, 4]` as `xmin, ymin, xmax, ymax` in pixels, half-open; float for a random crop.
        size: side of the result in pixels.

    Returns:
        float32 `[B, size, size]`, or float64 of float64 images.
    """
    _, height, width = images.shape
    xmin, ymin, xmax, ymax = jnp.moveaxis(boxes, -1, 0)
    rows = interpolation_matrix(ymin, ymax, height, size)
    columns = interpolation_matrix(xmin, xmax, width, size)
    images = images.astype(jnp.promote_types(images.dtype, jnp.float32))
    cropped = jnp.einsum("bih,bhw->biw", rows, images, precision=PRECISION)
    return jnp.einsum("biw,bjw->bij", cropped, columns, precision=PRECISION)
