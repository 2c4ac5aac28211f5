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
    """Convert a network: the backbone and the last linear layer.

    Args:
        file: the tensors.
        backbone: their module.
        backbone_name: its name, for messages.

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
    _check(file.name, backbone_name, tensors, expected)
    flat: dict[tuple[str, ...], np.ndarray] = {}
    for tensor in expected:
        kind, *rest = tensor.path
        place = rest if rest[0] == "head" else ["backbone", *rest]
        flat[(kind, *place)] = from_torch(tensors[tensor.key].astype(np.float32))
    tree = traverse_util.unflatten_dict(flat)
    return Converted(tree["params"], tree["batch_stats"], channels, classes, len(flat), left_out)


def convert_fusion(file: TensorFile, features: int, classes: int) -> dict[str, Any]:
    """Convert the fusion branch's linear layer, `fc`.

    Args:
        file: the tensors.
        features: K, the length of each of the two pooled features.
        classes: C.

    Returns:
        `{"head": {"kernel": [2K, C], "bias": [C]}}`, float32.

    Raises:
        UserError: naming the tensors that are missing, extra or of another shape.
    """
    tensors, _ = plain_tensors(file)
    expected = [
        Tensor("fc.weight", ("head", "kernel"), (classes, 2 * features)),
        Tensor("fc.bias", ("head", "bias"), (classes,)),
    ]
    _check(file.name, "fusion branch", tensors, expected)
    arrays = {t.path[-1]: from_torch(tensors[t.key].astype(np.float32)) for t in expected}
    return {"head": arrays}


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

    Args:
        params: a branch's, `{"backbone": ..., "head": ...}`.
        batch_stats: the same branch's, `{"backbone": ...}`.
        backbone: their module.
        channels: number of input channels.
    """
    flat = traverse_util.flatten_dict(
        {"params": params["backbone"], "batch_stats": batch_stats["backbone"]}
    )
    state = {t.key: to_torch(flat[t.path]) for t in backbone_tensors(backbone, channels)[0]}
    return {**state, **head_state(params["head"], head_name(backbone))}


def head_state(head: Mapping[str, Any], name: str) -> dict[str, np.ndarray]:
    """Return a linear layer's tensors under PyTorch's names."""
    return {f"{name}.weight": to_torch(head["kernel"]), f"{name}.bias": to_torch(head["bias"])}


def _check(
    file: str, network: str, tensors: Mapping[str, np.ndarray], expected: list[Tensor]
) -> None:
    names = {tensor.key for tensor in expected}
    missing = [tensor.key for tensor in expected if tensor.key not in tensors]
    extra = [key for key in tensors if key not in names]
    misshapen = [
        f"{tensor.key} is {list(tensors[tensor.key].shape)} instead of {list(tensor.shape)}"
        for tensor in expected
        if tensor.key in tensors and tensors[tensor.key].shape != tensor.shape
    ]
    problems = [
        f"{kind}: {_some(keys)}"
        for kind, keys in (("missing", missing), ("extra", extra), ("misshapen", misshapen))
        if keys
    ]
    if problems:
        raise UserError(
            f"--weights {file}: not the tensors of a {network}; {'; '.join(problems)}; give the "
            f"file's --backbone, or a complete file"
        )
    for tensor in expected:
        if tensors[tensor.key].dtype.kind != "f":
            raise UserError(
                f"--weights {file}: {tensor.key} is {tensors[tensor.key].dtype}, not floating point"
            )
        if not np.isfinite(tensors[tensor.key]).all():
            raise UserError(f"--weights {file}: {tensor.key} has values that are not finite")


def _some(names: Any) -> str:
    names = list(names)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
