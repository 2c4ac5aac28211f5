"""ResNet (He et al. 2016) with bottleneck blocks, as torchvision builds it ("v1.5")."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
from jax.typing import DTypeLike

from agcnn_jax.models.layers import BatchNorm, Conv, max_pool

EXPANSION = 4
"""Output channels of a bottleneck per channel of its 3x3 convolution."""


class Bottleneck(nn.Module):
    """1x1 reduce, 3x3, 1x1 expand, with a shortcut; the stride sits in the 3x3 (v1.5)."""

    width: int
    stride: int = 1
    project: bool = False
    axis_name: str | None = None
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map `[B, H, W, C]` to `[B, H / stride, W / stride, 4 * width]`."""

        def norm(name: str) -> BatchNorm:
            return BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name=name)

        def conv(features: int, size: int, stride: int, name: str) -> Conv:
            return Conv(features, size, stride, dtype=self.dtype, name=name)

        shortcut = x
        if self.project:
            shortcut = conv(EXPANSION * self.width, 1, self.stride, "downsample_conv")(x)
            shortcut = norm("downsample_bn")(shortcut, train)
        x = nn.relu(norm("bn1")(conv(self.width, 1, 1, "conv1")(x), train))
        x = nn.relu(norm("bn2")(conv(self.width, 3, self.stride, "conv2")(x), train))
        x = norm("bn3")(conv(EXPANSION * self.width, 1, 1, "conv3")(x), train)
        return nn.relu(x + shortcut)


class ResNet(nn.Module):
    """The convolutional part of a bottleneck ResNet: images in, last feature map out.

    Attributes:
        blocks: number of bottlenecks in each layer; (3, 4, 6, 3) is ResNet-50.
        width: channels of the stem and of the first layer's 3x3 convolutions.
        axis_name: mapped axis that BatchNorm averages over; None for each device's own statistics.
        dtype: dtype of the computation; parameters and statistics stay float32.
    """

    blocks: Sequence[int] = (3, 4, 6, 3)
    width: int = 64
    axis_name: str | None = None
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map normalised images to the last feature map.

        Args:
            x: `[B, H, W, 3]` (any number of channels when not pretrained).
            train: normalise by the batch's statistics and update the running ones.

        Returns:
            `[B, ceil(H / s), ceil(W / s), C]` after the last ReLU, with `s = 2 ** (1 + layers)`
            and `C = 4 * width * 2 ** (layers - 1)`: `[B, 7, 7, 2048]` for ResNet-50 at 224.
        """
        x = Conv(self.width, 7, 2, dtype=self.dtype, name="conv1")(x)
        x = BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name="bn1")(x, train)
        x = max_pool(nn.relu(x))
        for layer, blocks in enumerate(self.blocks):
            for block in range(blocks):
                first = block == 0
                x = Bottleneck(
                    self.width * 2**layer,
                    stride=2 if first and layer > 0 else 1,
                    project=first,
                    axis_name=self.axis_name,
                    dtype=self.dtype,
                    name=f"layer{layer + 1}_{block}",
                )(x, train)
        return x
