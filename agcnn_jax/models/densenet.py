"""DenseNet (Huang et al. 2017) as torchvision builds it."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint
from jax.typing import DTypeLike

from agcnn_jax.models.layers import (
    BatchNorm,
    Conv,
    Statistics,
    average_pool,
    he_normal_fan_in,
    max_pool,
)

BOTTLENECK = 4
"""Channels of a dense layer's 1x1 convolution per channel of growth."""


class DenseLayer(nn.Module):
    """BatchNorm, ReLU, 1x1, BatchNorm, ReLU, 3x3: the channels that one layer adds."""

    growth: int
    axis_name: str | None = None
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self, maps: Sequence[jax.Array], train: bool, known: Statistics | None
    ) -> tuple[jax.Array, Statistics]:
        """Map the feature maps so far, of C channels together, to a new one `[B, H, W, growth]`.

        All layers of a block read the maps of those before, whose batch statistics are the same
        for all: `known` has those of all maps but the last, and the second output those of all.
        """

        def norm(name: str) -> BatchNorm:
            return BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name=name)

        def conv(features: int, size: int, name: str) -> Conv:
            return Conv(features, size, 1, he_normal_fan_in, self.dtype, name=name)

        x, known = norm("norm1").normalise(maps, train, known)
        x = lay_out(conv(BOTTLENECK * self.growth, 1, "conv1")(nn.relu(x)))
        x = nn.relu(norm("norm2")(x, train))
        return lay_out(conv(self.growth, 3, "conv2")(x)), known


class DenseNet(nn.Module):
    """The convolutional part of a DenseNet: images in, last feature map out.

    Attributes:
        blocks: number of layers in each dense block; (6, 12, 24, 16) is DenseNet-121.
        growth: number of channels that each layer adds.
        stem: channels of the first convolution.
        axis_name: mapped axis that BatchNorm averages over; None for each device's own statistics.
        dtype: dtype of the computation; parameters and statistics stay float32.
    """

    blocks: Sequence[int] = (6, 12, 24, 16)
    growth: int = 32
    stem: int = 64
    axis_name: str | None = None
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map normalised images to the last feature map.

        Args:
            x: `[B, H, W, 3]` (any number of channels when not pretrained).
            train: normalise by the batch's statistics and update the running ones.

        Returns:
            `[B, H', W', C]` after the last BatchNorm and ReLU (torchvision applies that ReLU
            outside its `features`): `[B, 7, 7, 1024]` for DenseNet-121 at 224.
        """

        def norm(name: str) -> BatchNorm:
            return BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name=name)

        def conv(features: int, size: int, stride: int, name: str) -> Conv:
            return Conv(features, size, stride, he_normal_fan_in, self.dtype, name=name)

        x = conv(self.stem, 7, 2, "conv0")(x)
        x = max_pool(nn.relu(norm("norm0")(x, train)))
        for block, layers in enumerate(self.blocks, start=1):
            known, maps = None, [x]
            for layer in range(1, layers + 1):
                dense = DenseLayer(
                    self.growth, self.axis_name, self.dtype, name=f"block{block}_layer{layer}"
                )
                new, known = dense(maps, train, known)
                maps.append(new)
            if block < len(self.blocks):
                x = nn.relu(norm(f"transition{block}_norm").normalise(maps, train, known)[0])
                x = conv(x.shape[-1] // 2, 1, 1, f"transition{block}_conv")(x)
                x = average_pool(x)
        return nn.relu(norm("norm5").normalise(maps, train, known)[0])


def lay_out(x: jax.Array) -> jax.Array:
    """Choose how a TPU lays `[B, H, W, C]` out; values, and other devices, are unaffected.

    Its memory holds tiles of 8 by 128. A feature map of 32 channels that lie along the 128 takes
    four times its bytes; laid along the batch, it takes no more than them if 128 divides B. Left to
    itself, XLA mixes both (libtpu 0.0.42). A program for any B is left to itself: `jax.export`
    refuses layouts (jax 0.10 to 0.12).
    """
    images = x.shape[0]
    if not isinstance(images, int):
        return x
    order = (1, 2, 3, 0) if images % 128 == 0 else (1, 2, 0, 3)

    def on_tpu(x: jax.Array) -> jax.Array:
        return with_layout_constraint(x, Layout(order))

    return lax.platform_dependent(x, tpu=on_tpu, default=lambda x: x)
