"""Heat map and mask of the global branch's feature map (Eq. 3 and 4), for use inside jit."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from agcnn_jax.attention.resample import resize

STATISTICS = ("max", "l1", "l2")
"""The channel statistics of Section III-B and Table III."""


def heat_map(feature_map: jax.Array, statistic: str = "max") -> jax.Array:
    """Count the channels' activations at each position, scaled to 0..1 per image.

    `max` is Eq. 3, `H = max_k |f_k|`; `l1` is `1/K sum_k |f_k|`; `l2` is `1/K sqrt(sum_k f_k^2)`.
    The paper's tau lies between 0 and 1 while H is unbounded, so H is min-max normalised per
    image; that makes the factors 1/K irrelevant. A flat map becomes all zeros.

    Args:
        feature_map: `[B, h, w, K]`.
        statistic: `max`, `l1` or `l2`.

    Returns:
        float32 `[B, h, w]` in 0..1, through which no gradient flows.

    Raises:
        ValueError: for any other `statistic`.
    """
    activations = jnp.abs(jax.lax.stop_gradient(feature_map).astype(jnp.float32))
    if statistic == "max":
        response = activations.max(axis=-1)
    elif statistic == "l1":
        response = activations.mean(axis=-1)
    elif statistic == "l2":
        response = jnp.sqrt(jnp.square(activations).sum(axis=-1)) / activations.shape[-1]
    else:
        raise ValueError(f"statistic is {statistic!r}; use one of {', '.join(STATISTICS)}")
    low = response.min(axis=(1, 2), keepdims=True)
    span = response.max(axis=(1, 2), keepdims=True) - low
    return jnp.where(span > 0, (response - low) / jnp.where(span > 0, span, 1.0), 0.0)


def heat_map_mask(heat: jax.Array, tau: float, size: int) -> tuple[jax.Array, jax.Array]:
    """Resize heat maps to the input and threshold them (Eq. 4).

    Args:
        heat: float32 `[B, h, w]` in 0..1.
        tau: threshold in 0..1; a larger one leads to a smaller region.
        size: side S of the model's input in pixels.

    Returns:
        The heat maps, float32 `[B, S, S]`, and the masks `H > tau`, bool `[B, S, S]`.
    """
    heat = resize(heat, size)
    return heat, heat > tau
