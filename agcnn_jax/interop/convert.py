"""Conversion of a PyTorch state dict to our variables and back; no tensor is ignored silently."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np
from flax import traverse_util

from agcnn_jax.interop.read import TensorFile
from agcnn_jax.interop.torch_keys import (
    NOT_WEIGHTS,
    Tensor,
    backbone_tensors,
    common_prefix,
    from_torch,
    head_name,
    plain_key,
    stem_key,
    to_torch,
)
from agcnn_jax.runtime.errors import UserError

THRESHOLDS = "op_threshs"
"""torchxrayvision's operating points, which rescale its probabilities."""

_OF_THE_TRAINER = re.compile(
    r"(?:^|\.)(?:criterion|loss|loss_fn|loss_func|loss_function|metrics?|\w+_(?:loss|metrics?|"
    r"criterion|auroc)|auroc)\."
    r"|(?:^|\.)(?:pos_weight|class_weights?|n_averaged)$"
)
"""Tensors that trainers keep beside the network, such as `criterion.pos_weight`."""

_NAMED = 5


class Converted(NamedTuple):
    """A branch with a backbone in our layout.

    Attributes:
        params: `{"backbone": ..., "head": {"kernel": [K, C], "bias": [C]}}`, float32.
        batch_stats: `{"backbone": ...}`, float32.
        channels: number of input channels.
        classes: C.
        used: number of converted tensors.
        left_out: the reason for each tensor or entry that was left out.
    """

    params: dict[str, Any]
    batch_stats: dict[str, Any]
    channels: int
    classes: int
    used: int
    left_out: dict[str, str]


def convert_branch(file: TensorFile, backbone: nn.Module, backbone_name: str) -> Converted:
    """Convert a network: the backbone and the last linear layer; the name is for messages.

    Raises:
        UserError: naming the tensors that are missing, extra or of another shape.
    """
    tensors, left_out = plain_tensors(file)
    head = head_name(backbone)
    kernel, bias = f"{head}.weight", f"{head}.bias"
    stem = stem_key(backbone)
    if stem not in tensors:
        raise UserError(
            f"--weights {file.name}: no {backbone_name}: it has no tensor {stem!r} but "
            f"{_some(tensors)}; give the file's --backbone"
        )
    if tensors[stem].ndim != 4:
        raise UserError(f"--weights {file.name}: {stem} is {tensors[stem].shape}, not a kernel")
    channels = tensors[stem].shape[1]
    expected, features = backbone_tensors(backbone, channels)
    classes = tensors[kernel].shape[0] if kernel in tensors and tensors[kernel].ndim else 0
    expected += [
        Tensor(kernel, ("params", "head", "kernel"), (classes, features)),
        Tensor(bias, ("params", "head", "bias"), (classes,)),
    ]
    tree = _convert(file.name, backbone_name, tensors, expected)
    return Converted(
        tree["params"], tree["batch_stats"], channels, classes, len(expected), left_out
    )


def convert_fusion(file: TensorFile, features: int, classes: int) -> dict[str, Any]:
    """Convert the fusion branch's linear layer, `fc`.

    `features` is K, the length of each of the two pooled features, and `classes` is C. Returns
    `{"head": {"kernel": [2K, C], "bias": [C]}}`, float32.

    Raises:
        UserError: naming the tensors that are missing, extra or of another shape.
    """
    tensors, _ = plain_tensors(file)
    expected = [
        Tensor("fc.weight", ("head", "kernel"), (classes, 2 * features)),
        Tensor("fc.bias", ("head", "bias"), (classes,)),
    ]
    return _convert(file.name, "fusion branch", tensors, expected)


def plain_tensors(file: TensorFile) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the weights under torchvision's names, and why each other entry is left out."""
    tensors: dict[str, np.ndarray] = {}
    left_out = dict.fromkeys(file.other_entries, "training state, not a weight")
    weights = {}
    for key, array in file.tensors.items():
        if _OF_THE_TRAINER.search(key):
            left_out[key] = "of the trainer, not a weight of the network"
        else:
            weights[key] = array
    prefix = common_prefix(key for key in weights if plain_key(key) != THRESHOLDS)
    for key, array in weights.items():
        name = plain_key(key.removeprefix(prefix))
        if name.endswith(NOT_WEIGHTS):
            left_out[key] = "PyTorch's count of BatchNorm updates, not a weight"
        elif name == THRESHOLDS:
            left_out[key] = "thresholds that rescale probabilities, not a weight"
        elif name in tensors:
            raise UserError(f"--weights {file.name}: {key!r} is a second tensor for {name!r}")
        else:
            tensors[name] = array
    return tensors, left_out


def torch_state(
    params: Mapping[str, Any], batch_stats: Mapping[str, Any], backbone: nn.Module, channels: int
) -> dict[str, np.ndarray]:
    """Invert `convert_branch`: return arrays in PyTorch's layout by torchvision's names.

    A branch's `params` are `{"backbone": ..., "head": ...}`, its `batch_stats` `{"backbone": ...}`;
    its input has so many `channels`.
    """
    flat = traverse_util.flatten_dict({"params": params, "batch_stats": batch_stats})
    state = {t.key: to_torch(flat[t.path]) for t in backbone_tensors(backbone, channels)[0]}
    return {**state, **head_state(params["head"], head_name(backbone))}


def head_state(head: Mapping[str, Any], name: str) -> dict[str, np.ndarray]:
    """Return a linear layer's tensors under PyTorch's names."""
    return {f"{name}.weight": to_torch(head["kernel"]), f"{name}.bias": to_torch(head["bias"])}


def _convert(
    file: str, network: str, tensors: Mapping[str, np.ndarray], expected: list[Tensor]
) -> dict[str, Any]:
    """Convert the expected tensors, which must be all that there are, to a tree of float32."""
    keys = {tensor.key for tensor in expected}
    shapes = {key: list(array.shape) for key, array in tensors.items()}
    problems = {
        "missing": [tensor.key for tensor in expected if tensor.key not in tensors],
        "extra": [key for key in tensors if key not in keys],
        "misshapen": [
            f"{tensor.key} is {shapes[tensor.key]} instead of {list(tensor.shape)}"
            for tensor in expected
            if shapes.get(tensor.key, list(tensor.shape)) != list(tensor.shape)
        ],
    }
    if any(problems.values()):
        words = "; ".join(f"{kind}: {_some(names)}" for kind, names in problems.items() if names)
        raise UserError(
            f"--weights {file}: not the tensors of a {network}; {words}; give the file's "
            f"--backbone, or a complete file"
        )
    flat = {}
    for tensor in expected:
        array = tensors[tensor.key]
        if array.dtype.kind != "f":
            raise UserError(f"--weights {file}: {tensor.key} is {array.dtype}, not floating point")
        if not np.isfinite(array).all():
            raise UserError(f"--weights {file}: {tensor.key} has values that are not finite")
        flat[tensor.path] = from_torch(array.astype(np.float32))
    tree: dict[str, Any] = traverse_util.unflatten_dict(flat)
    return tree


def _some(names: Any) -> str:
    names = list(names)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
