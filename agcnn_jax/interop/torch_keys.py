"""torchvision's names for the tensors of our backbones.

The names come from torchvision's architectures (`layer1.0.downsample.0.weight`,
`features.denseblock1.denselayer1.norm1.running_mean`). timm, CheXNet, torchxrayvision and the
PyTorch ports of AG-CNN share them, apart from the parts that `plain_key` removes.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from agcnn_jax.models.densenet import DenseNet

NOT_WEIGHTS = "num_batches_tracked"
"""PyTorch's count of BatchNorm updates; it has no effect while momentum is a number."""

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_RESNET_BLOCK = re.compile(r"layer(\d+)_(\d+)")
_DENSE_LAYER = re.compile(r"block(\d+)_layer(\d+)")
_TRANSITION = re.compile(r"transition(\d+)_(norm|conv)")
_OLD_DENSE_LAYER = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")
_WRAPPED_HEAD = re.compile(r"^(classifier|fc)\.0\.")
_KNOWN_PREFIX = re.compile(
    r"(?:(?:module|_orig_mod|model|net|network|backbone|encoder|densenet121|resnet50)\.)*"
)
"""What DataParallel, torch.compile, Lightning and public ports put before names."""


class Tensor(NamedTuple):
    """One tensor of a backbone.

    Attributes:
        key: torchvision's name.
        path: in a branch's variables: `params` or `batch_stats`, then names down to the leaf.
        shape: in PyTorch's layout.
    """

    key: str
    path: tuple[str, ...]
    shape: tuple[int, ...]


def plain_key(key: str) -> str:
    """Reduce a checkpoint's name of a tensor to torchvision's.

    Removes known prefixes such as `module.` (DataParallel), and replaces `norm.1` by `norm1`
    (torchvision before 0.3) and `classifier.0` by `classifier` (a Sequential of a linear layer and
    a sigmoid).
    """
    key = key[_KNOWN_PREFIX.match(key).end() :]  # type: ignore[union-attr]
    return _WRAPPED_HEAD.sub(r"\1.", _OLD_DENSE_LAYER.sub(r"\1\2.", key))


def common_prefix(keys: Iterable[str]) -> str:
    """Return the modules, such as `chexnet.net.`, in which all tensors of a network lie.

    Networks have tensors in several modules, so what all names begin with is no part of them; but
    a lone linear layer, whose tensors are `fc.weight` and `fc.bias`, keeps its name.
    """
    modules = [key.split(".")[:-1] for key in keys]
    levels = itertools.takewhile(lambda names: len(set(names)) == 1, zip(*modules, strict=False))
    shared = [names[0] for names in levels]
    if all(module == shared for module in modules):
        shared = shared[:-1]
    # In a file of the body alone, it is torchvision's own.
    if shared[-1:] == ["features"]:
        shared = shared[:-1]
    return "".join(f"{module}." for module in shared)


def head_name(backbone: nn.Module) -> str:
    """Return the name of the last linear layer: `classifier` in a DenseNet, `fc` in a ResNet."""
    return "classifier" if isinstance(backbone, DenseNet) else "fc"


def stem_key(backbone: nn.Module) -> str:
    """Return the name of the first convolution's kernel, whose shape tells the input channels."""
    return "features.conv0.weight" if isinstance(backbone, DenseNet) else "conv1.weight"


def backbone_tensors(backbone: nn.Module, channels: int) -> tuple[list[Tensor], int]:
    """List a backbone's tensors in our order, and count its features.

    Args:
        backbone: a key's module of `BACKBONES`; names of ours that torchvision does not have stay.
        channels: number of input channels.

    Returns:
        The tensors, and K, the channels of the last feature map.
    """
    # BatchNorm's mapped axis does not exist here.
    unmapped = backbone.clone(axis_name=None)
    image = jnp.zeros((1, 64, 64, channels))
    feature_map, shapes = jax.eval_shape(
        lambda: unmapped.init_with_output(jax.random.key(0), image, train=False)
    )
    prefix = "features." if isinstance(backbone, DenseNet) else ""
    tensors = []
    for path, leaf in traverse_util.flatten_dict(shapes).items():
        modules = ".".join(_module_key(name) for name in path[1:-1])
        key = f"{prefix}{modules}.{_LEAVES[path[-1]]}"
        tensors.append(Tensor(key, (path[0], "backbone", *path[1:]), torch_shape(leaf.shape)))
    return tensors, feature_map.shape[-1]


def _torch_axes(rank: int) -> tuple[int, ...]:
    """Say which of our axes each PyTorch axis is; output channels come first there."""
    return (3, 2, 0, 1) if rank == 4 else tuple(reversed(range(rank)))


def torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the PyTorch shape of one of our arrays."""
    return tuple(shape[axis] for axis in _torch_axes(len(shape)))


def to_torch(array: Any) -> np.ndarray:
    """Convert to PyTorch's layout: `[H, W, I, O]` to `[O, I, H, W]`, and `[I, O]` to `[O, I]`."""
    return np.ascontiguousarray(np.transpose(array, _torch_axes(np.ndim(array))))


def from_torch(array: np.ndarray) -> np.ndarray:
    """Convert from PyTorch's layout; the inverse of `to_torch`."""
    return np.ascontiguousarray(array.transpose(np.argsort(_torch_axes(array.ndim))))


def _module_key(name: str) -> str:
    if match := _RESNET_BLOCK.fullmatch(name):
        return f"layer{match[1]}.{match[2]}"
    if match := _DENSE_LAYER.fullmatch(name):
        return f"denseblock{match[1]}.denselayer{match[2]}"
    if match := _TRANSITION.fullmatch(name):
        return f"transition{match[1]}.{match[2]}"
    return {"downsample_conv": "downsample.0", "downsample_bn": "downsample.1"}.get(name, name)
