"""Class-specific maps: where a branch sees evidence for one finding, for use inside jit.

The paper's heat map asks where anything is, these ask where one finding is. The branch is a feature
map, pooled over all positions, under a linear layer; for such a head the gradients of both methods
have closed forms, so nothing is differentiated here.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from agcnn_jax.attention.resample import PRECISION


def grad_cam(feature_map: jax.Array, weights: jax.Array) -> jax.Array:
    """Compute Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391, Eq. 1 and 2).

    The gradient of a logit, summed over positions, is the linear layer's weight, under maximum and
    under average pooling: `relu(1/Z sum_k w_k f_k)` over Z positions.

    Args:
        feature_map: `[B, h, w, K]`, the last convolutional layer's activations.
        weights: `[B, K]`, the linear layer's weights of the finding to show in each image.

    Returns:
        float32 `[B, h, w]`, at least 0; all 0 where nothing speaks for the finding.
    """
    positions = feature_map.shape[1] * feature_map.shape[2]
    return _weighted_sum(feature_map, weights) / positions


def grad_cam_plus_plus(feature_map: jax.Array, weights: jax.Array, pooling: str) -> jax.Array:
    """Compute Grad-CAM++ (Chattopadhyay et al. 2018, arXiv:1710.11063) of the score exp(logit).

    Its alpha is `1 / (2 + g sum_ab f_k)` where the logit's gradient g is not 0. Average pooling
    spreads the weight evenly over Z positions, so g is w_k / Z; maximum pooling puts it on one,
    so g is w_k. The factor exp(logit), the same for all channels, is left out, since maps are
    scaled to 0..1.

    Args:
        feature_map: `[B, h, w, K]`, at least 0 (after a ReLU).
        weights: `[B, K]`, the linear layer's weights of the finding to show in each image.
        pooling: `max` or `avg`, of the branch.

    Returns:
        float32 `[B, h, w]`, at least 0.
    """
    sums = feature_map.astype(jnp.float32).sum(axis=(1, 2))
    if pooling == "avg":
        sums = sums / (feature_map.shape[1] * feature_map.shape[2])
    positive = jnp.maximum(weights.astype(jnp.float32), 0)
    return _weighted_sum(feature_map, positive / (2 + positive * sums))


def _weighted_sum(feature_map: jax.Array, weights: jax.Array) -> jax.Array:
    features, weights = feature_map.astype(jnp.float32), weights.astype(jnp.float32)
    return jax.nn.relu(jnp.einsum("bhwk,bk->bhw", features, weights, precision=PRECISION))
