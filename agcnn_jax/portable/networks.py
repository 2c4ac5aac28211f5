"""The branches' networks in operators of ONNX, on channels-first maps."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from agcnn_jax.models.densenet import DenseNet
from agcnn_jax.models.layers import BatchNorm
from agcnn_jax.models.resnet import ResNet
from agcnn_jax.portable.graph import Graph

Tree = Mapping[str, Any]


def features(graph: Graph, backbone: nn.Module, params: Tree, statistics: Tree, images: str) -> str:
    """Add a backbone, and return its last feature map `[B, K, h, w]`.

    Args:
        graph: the graph to add to.
        backbone: says the structure.
        params: of the backbone.
        statistics: BatchNorm's means and variances.
        images: float32 `[B, channels, H, W]`.

    Raises:
        ValueError: for a backbone of another kind.
    """
    network = _Network(graph, params, statistics)
    if isinstance(backbone, ResNet):
        return _resnet(network, backbone, images)
    if isinstance(backbone, DenseNet):
        return _densenet(network, backbone, images)
    raise ValueError(f"{type(backbone).__name__} has no form in ONNX yet; add it to {__name__}")


@dataclasses.dataclass(frozen=True)
class _Network:
    """Layers of a network, by the names of their weights."""

    graph: Graph
    params: Tree
    statistics: Tree

    def part(self, name: str) -> _Network:
        """Return the block of this name."""
        return _Network(self.graph, self.params[name], self.statistics[name])

    def conv(self, x: str, name: str, stride: int, norm: str | None = None) -> str:
        """Add a convolution, with the BatchNorm that follows it in its weights if there is one."""
        kernel = np.asarray(self.params[name]["kernel"], np.float64)
        inputs = [x]
        if norm is None:
            inputs += [self.graph.constant(kernel.transpose(3, 2, 0, 1))]
        else:
            gain, shift = self._affine(norm)
            inputs += [self.graph.constant((kernel * gain).transpose(3, 2, 0, 1))]
            inputs += [self.graph.constant(shift)]
        size = len(kernel)
        return self.graph.add(
            *("Conv", *inputs),
            kernel_shape=[size, size],
            pads=[size // 2] * 4,
            strides=[stride, stride],
        )

    def norm(self, x: str, name: str) -> str:
        """Add a BatchNorm that follows no convolution."""
        params, statistics = self.params[name], self.statistics[name]
        values = (params["scale"], params["bias"], statistics["mean"], statistics["var"])
        constants = map(self.graph.constant, values)
        return self.graph.add("BatchNormalization", x, *constants, epsilon=BatchNorm.epsilon)

    def relu(self, x: str) -> str:
        """Add a ReLU."""
        return self.graph.add("Relu", x)

    def max_pool(self, x: str) -> str:
        """Add the stem's pooling."""
        return self.graph.add("MaxPool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2])

    def _affine(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the factors and summands that a BatchNorm amounts to, float64 `[C]`."""
        trees = (self.params[name], self.statistics[name])
        values = {
            key: np.asarray(array, np.float64) for tree in trees for key, array in tree.items()
        }
        gain = values["scale"] / np.sqrt(values["var"] + BatchNorm.epsilon)
        return gain, values["bias"] - values["mean"] * gain


def _resnet(network: _Network, backbone: ResNet, x: str) -> str:
    x = network.max_pool(network.relu(network.conv(x, "conv1", 2, "bn1")))
    for layer, blocks in enumerate(backbone.blocks, start=1):
        for block in range(blocks):
            bottleneck = network.part(f"layer{layer}_{block}")
            x = _bottleneck(bottleneck, 2 if block == 0 and layer > 1 else 1, x)
    return x


def _bottleneck(network: _Network, stride: int, x: str) -> str:
    shortcut = x
    if "downsample_conv" in network.params:
        shortcut = network.conv(x, "downsample_conv", stride, "downsample_bn")
    x = network.relu(network.conv(x, "conv1", 1, "bn1"))
    x = network.relu(network.conv(x, "conv2", stride, "bn2"))
    x = network.conv(x, "conv3", 1, "bn3")
    return network.relu(network.graph.add("Add", x, shortcut))


def _densenet(network: _Network, backbone: DenseNet, x: str) -> str:
    graph = network.graph
    x = network.max_pool(network.relu(network.conv(x, "conv0", 2, "norm0")))
    for block, layers in enumerate(backbone.blocks, start=1):
        for layer in range(1, layers + 1):
            dense = network.part(f"block{block}_layer{layer}")
            new = network.relu(dense.norm(x, "norm1"))
            new = network.relu(dense.conv(new, "conv1", 1, "norm2"))
            x = graph.add("Concat", x, dense.conv(new, "conv2", 1), axis=1)
        if block < len(backbone.blocks):
            x = network.relu(network.norm(x, f"transition{block}_norm"))
            x = network.conv(x, f"transition{block}_conv", 1)
            x = graph.add("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    return network.relu(network.norm(x, "norm5"))
