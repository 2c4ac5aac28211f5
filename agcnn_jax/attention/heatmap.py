"""Heat map and mask of the global branch's feature map (Eq. 3 and 4), for use inside jit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from agcnn_jax.attention import STATISTICS
from agcnn_jax.attention.resample import PRECISION

BELOW_1 = np.nextafter(np.float32(1), np.float32(0))
"""The largest threshold of a heat map: as float32, one just below 1 would be 1."""


def heat_map(feature_map: jax.Array, size: int, statistic: str = "max") -> jax.Array:
    """Reduce a feature map over its channels, resize it to the input and scale it to 0..1.

    Each image is scaled by itself; see `scale_map`.

    Args:
        feature_map: `[B, h, w, K]`.
        size: side S of the model's input in pixels.
        statistic: `max`, `l1` or `l2`.

    Returns:
        float32 `[B, S, S]` in 0..1, through which no gradient flows.

    Raises:
        ValueError: for any other `statistic`.
    """
    return scale_map(reduce_channels(feature_map, statistic), size)


def reduce_channels(feature_map: jax.Array, statistic: str = "max") -> jax.Array:
    """Reduce the activations' absolute values over the channels, at every position.

    `max` is Eq. 3, `H = max_k |f_k|`; `l1` is `1/K sum_k |f_k|`; `l2` is `1/K sqrt(sum_k f_k^2)`.

    Args:
        feature_map: `[B, h, w, K]`.
        statistic: `max`, `l1` or `l2`.

    Returns:
        float32 `[B, h, w]`, at least 0, through which no gradient flows.

    Raises:
        ValueError: for any other `statistic`.
    """
    activations = jnp.abs(jax.lax.stop_gradient(feature_map).astype(jnp.float32))
    if statistic == "max":
        return activations.max(axis=-1)
    if statistic == "l1":
        return activations.mean(axis=-1)
    if statistic == "l2":
        # Squares could leave float32's range; powers of two scale without rounding.
        _, exponent = jnp.frexp(activations.max(axis=(1, 2, 3), keepdims=True))
        squares = jnp.square(jnp.ldexp(activations, -exponent))
        root = jnp.sqrt(squares.sum(axis=-1)) / activations.shape[-1]
        return jnp.ldexp(root, exponent[..., 0])
    raise ValueError(f"statistic is {statistic!r}; use one of {', '.join(STATISTICS)}")


def scale_map(response: jax.Array, size: int) -> jax.Array:
    """Resize responses to the input and scale them to 0..1 per image.

    The paper's tau lies between 0 and 1 while H is unbounded, so H is min-max normalised per
    image; that makes the factors 1/K irrelevant. A map that is not flat reaches 0 and 1, each in
    at least one pixel; a flat one becomes all zeros.

    Args:
        response: float32 `[B, h, w]`.
        size: side S of the model's input in pixels.

    Returns:
        float32 `[B, S, S]` in 0..1.
    """
    # Shifted to zero first, so that a flat map stays flat: resizing rounds, and scaling would
    # magnify what it rounds off.
    response = response - response.min(axis=(1, 2), keepdims=True)
    shape = (response.shape[0], size, size)
    resized = jax.image.resize(response, shape, "linear", precision=PRECISION)
    low = resized.min(axis=(1, 2), keepdims=True)
    high = resized.max(axis=(1, 2), keepdims=True)
    span = high - low
    scaled = (resized - low) / jnp.where(span > 0, span, 1.0)
    # On some accelerators a number divided by itself is 1 only up to rounding.
    return jnp.where(span > 0, jnp.where(resized == high, 1.0, scaled), 0.0)


def heat_map_mask(heat: jax.Array, tau: float | jax.Array) -> jax.Array:
    """Threshold heat maps (Eq. 4).

    Args:
        heat: float32 `[B, S, S]` in 0..1; see `heat_map`.
        tau: threshold, at least 0 and below 1; a larger one never gives a larger region.

    Returns:
        `H > tau`, bool `[B, S, S]`; no pixel of a flat map, and some of every other.
    """
    tau = jnp.minimum(jnp.asarray(tau, jnp.float32), BELOW_1)
    return heat > tau
