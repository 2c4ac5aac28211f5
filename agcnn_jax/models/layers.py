"""Layers equivalent to torchvision's, on channels-last arrays."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.scipy.special import logsumexp
from jax.typing import DTypeLike

from agcnn_jax.models import POOLINGS
from agcnn_jax.models.convolution import convolve

he_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
he_normal_fan_in = nn.initializers.variance_scaling(2.0, "fan_in", "normal")

KEPT = ("convolution", "statistics")
"""Names of what a backbone keeps for its backward pass when it computes the rest again: outputs of
convolutions, and BatchNorm's sums, which devices would have to exchange again."""


class Conv(nn.Module):
    """Convolution without bias, padded like PyTorch's `Conv2d(padding=size // 2)`.

    Attributes:
        features: number of output channels.
        size: side of the kernel in pixels.
        stride: step of the kernel in pixels.
        kernel_init: initialiser of the `[size, size, C_in, features]` kernel.
        dtype: dtype of the computation; the kernel stays float32 (or wider, as given).
    """

    features: int
    size: int = 1
    stride: int = 1
    kernel_init: Callable[..., jax.Array] = he_normal_fan_out
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[B, H, W, C_in]` to `[B, H', W', features]`."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        return checkpoint_name(convolve(x, kernel, self.stride), KEPT[0])


Statistics = tuple[jax.Array, jax.Array]
"""Mean and biased variance of each channel, float32 (or wider) `[C]`."""


class BatchNorm(nn.Module):
    """Batch normalisation with PyTorch's semantics, over all devices of `axis_name` if given.

    It differs from `flax.linen.BatchNorm` in three ways. The running variance averages unbiased
    estimates, as in PyTorch. The momentum is PyTorch's 0.1, the weight of the new value. The sums
    are over `x - running mean`, which needs one pass and one collective and loses no digits once
    the running mean is near the batch's (the shifted-data algorithm of Chan, Golub and LeVeque,
    1983).

    Attributes:
        momentum: weight of the batch's statistics in the running ones.
        epsilon: added to the variance under the root.
        axis_name: mapped axis to average over; None for each device's own statistics.
        dtype: dtype of the output, which is computed in float32 (or wider, like the input).
    """

    momentum: float = 0.1
    epsilon: float = 1e-5
    axis_name: str | None = None
    dtype: DTypeLike | None = None

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Normalise `[B, H, W, C]` by batch statistics if `train`, else by running ones."""
        return self.normalise([x], train)[0]

    @nn.compact
    def normalise(
        self, maps: Sequence[jax.Array], train: bool, known: Statistics | None = None
    ) -> tuple[jax.Array, Statistics]:
        """Concatenate and normalise, and return the statistics for layers that read the same maps.

        Args:
            maps: `[B, H, W, c]` each, of C channels together.
            train: normalise by batch statistics instead of the running ones.
            known: batch statistics of all maps but the last, which are not computed again.

        Returns:
            The normalised `[B, H, W, C]`, and the mean and variance, `[C]`, by which.
        """
        x = jnp.concatenate(maps, axis=-1) if len(maps) > 1 else maps[0]
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))

        if train and not self.is_initializing():
            # Of the map itself: a slice of `x` would have its gradient padded to all channels.
            newest = x if known is None else maps[-1]
            mean, var = self._batch_statistics(newest, running_mean.value[-newest.shape[-1] :])
            if known is not None:
                mean = jnp.concatenate([known[0], mean])
                var = jnp.concatenate([known[1], var])
            count = x.size // channels
            if self.axis_name is not None:
                count *= lax.axis_size(self.axis_name)
            unbiased = var * (count / max(count - 1, 1))
            running_mean.value += self.momentum * (mean - running_mean.value)
            running_var.value += self.momentum * (unbiased - running_var.value)
        else:
            mean, var = running_mean.value, running_var.value
        gain = scale * lax.rsqrt(var + self.epsilon)
        # Round to bfloat16 once, at the end: a rounded gain or shift would move the whole channel.
        y = x * gain + (bias - mean * gain)
        return y if self.dtype is None else y.astype(self.dtype), (mean, var)

    def _batch_statistics(self, x: jax.Array, centre: jax.Array) -> Statistics:
        shifted = x.astype(jnp.promote_types(x.dtype, jnp.float32)) - centre
        mean = shifted.mean(axis=(0, 1, 2))
        square = jnp.square(shifted).mean(axis=(0, 1, 2))
        if self.axis_name is not None:
            mean, square = lax.pmean((mean, square), self.axis_name)
        mean, square = checkpoint_name((mean, square), KEPT[1])
        return mean + centre, jnp.maximum(square - jnp.square(mean), 0.0)


def max_pool(x: jax.Array, size: int = 3, stride: int = 2) -> jax.Array:
    """Max pooling of `[B, H, W, C]`, padded by `size // 2` as in both backbones' stems.

    Takes the maximum along rows, then along columns, over strided views. XLA on CPU differentiates
    this 20 times faster than a window reduction (jax 0.10). On TPUs the views' gradients would be
    padded copies, and the window reduction spares a step of 64 images 3 GB of reading and writing
    (as libtpu 0.0.42 compiles it for v5e). The gradient of a tie goes to the first tied pixel in
    raster order, as in PyTorch.
    """

    def over_views(x: jax.Array) -> jax.Array:
        return _pool_axis(_pool_axis(x, size, stride, axis=2), size, stride, axis=1)

    def over_windows(x: jax.Array) -> jax.Array:
        return nn.max_pool(x, (size, size), (stride, stride), [(size // 2, size // 2)] * 2)

    return lax.platform_dependent(x, tpu=over_windows, default=over_views)


def _pool_axis(x: jax.Array, size: int, stride: int, axis: int) -> jax.Array:
    length = (x.shape[axis] + 2 * (size // 2) - size) // stride + 1
    padding = [(size // 2, size // 2) if i == axis else (0, 0) for i in range(x.ndim)]
    x = jnp.pad(x, padding, constant_values=-jnp.inf)
    views = (
        lax.slice_in_dim(x, start, start + stride * (length - 1) + 1, stride, axis)
        for start in range(size)
    )
    return functools.reduce(lambda first, second: jnp.where(first < second, second, first), views)


def average_pool(x: jax.Array, size: int = 2) -> jax.Array:
    """Average pooling of `[B, H, W, C]` in steps of `size`; drops a remainder, like PyTorch."""
    return nn.avg_pool(x, (size, size), (size, size))


def global_pool(feature_map: jax.Array, pooling: str) -> jax.Array:
    """Pool a feature map over all positions.

    Args:
        feature_map: `[B, H, W, C]`.
        pooling: `max` (the paper's Pool5) or `avg` (ImageNet and CheXNet checkpoints).

    Returns:
        `[B, C]`, float32 (or wider, like the input).

    Raises:
        ValueError: for any other `pooling`.
    """
    feature_map = feature_map.astype(jnp.promote_types(feature_map.dtype, jnp.float32))
    if pooling == "max":
        return feature_map.max(axis=(1, 2))
    if pooling == "avg":
        return feature_map.mean(axis=(1, 2))
    raise ValueError(f"pooling is {pooling!r}; use one of {', '.join(POOLINGS)}")


def mean_logit(logits: jax.Array) -> jax.Array:
    """Return the logit of the mean over axis 0 of the probabilities, even where these round to 1.

    Args:
        logits: `[n, ...]`.

    Returns:
        `[...]`, of the same dtype.
    """
    positive, negative = (
        logsumexp(jax.nn.log_sigmoid(signed), axis=0) for signed in (logits, -logits)
    )
    return positive - negative
