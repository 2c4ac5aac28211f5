"""AG-CNN's three branches as one pure function (Section III-A, Fig. 2)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from agcnn_jax.models import BRANCHES
from agcnn_jax.models.layers import KEPT, global_pool

Variables = dict[str, dict[str, Any]]
"""`{"params": {branch: ...}, "batch_stats": {branch: ...}}`."""


@dataclasses.dataclass(frozen=True)
class AGCNN:
    """The static part of a model; its weights are `Variables`.

    Attributes:
        backbone: module mapping `[B, H, W, channels]` and `train` to the last feature map. The
            global and the local branch have the same structure and do not share weights.
        label_count: length C of the label vector.
        pooling: `max` (the paper's Pool5) or `avg`.
        mean: subtracted from gray levels / 255; one number per channel.
        std: divides the difference; one number per channel.
        remat: keep for the backward pass what `KEPT` names, and compute the rest again there:
            BatchNorm, ReLU, concatenation, pooling. The results are the same but for rounding.
    """

    backbone: nn.Module
    label_count: int
    pooling: str = "max"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    remat: bool = False


@dataclasses.dataclass(frozen=True)
class BranchOutput:
    """The output of a branch with a backbone.

    Attributes:
        feature_map: `[B, h, w, K]`, the last convolutional layer's activations after the ReLU.
        pooled: float32 `[B, K]`, the Pool5 layer.
        logits: float32 `[B, C]`, before the sigmoid of Eq. 1.
    """

    feature_map: jax.Array
    pooled: jax.Array
    logits: jax.Array


def init_variables(model: AGCNN, key: jax.Array, input_size: int) -> Variables:
    """Draw random weights for all three branches.

    Backbones start as torchvision's do; linear layers as PyTorch's `Linear`, uniform within
    `1 / sqrt(K)`.

    Args:
        model: the model.
        key: PRNG key.
        input_size: side of the input in pixels; weights do not depend on it.
    """
    image = jnp.zeros((1, input_size, input_size, len(model.mean)))
    features = jax.eval_shape(
        lambda: model.backbone.init_with_output(jax.random.key(0), image, train=False)[0]
    ).shape[-1]
    params: dict[str, Any] = {}
    batch_stats: dict[str, Any] = {}
    for branch in ("global", "local"):
        key, backbone_key, head_key = jax.random.split(key, 3)
        backbone = model.backbone.init(backbone_key, image, train=False)
        head = _init_linear(head_key, features, model.label_count)
        params[branch] = {"backbone": backbone["params"], "head": head}
        batch_stats[branch] = {"backbone": backbone["batch_stats"]}
    params["fusion"] = {"head": _init_linear(key, 2 * features, model.label_count)}
    batch_stats["fusion"] = {}
    return {"params": params, "batch_stats": batch_stats}


def normalise(model: AGCNN, images: jax.Array) -> jax.Array:
    """Normalise gray levels `[B, H, W]` in 0..255 to the backbone's input `[B, H, W, channels]`."""
    mean, std = jnp.asarray(model.mean), jnp.asarray(model.std)
    return (images[..., None] / 255.0 - mean) / std


def apply_branch(
    model: AGCNN, variables: Variables, branch: str, images: jax.Array, train: bool
) -> tuple[BranchOutput, Mapping[str, Any]]:
    """Run the global or the local branch.

    Args:
        model: the model.
        variables: weights and statistics of all branches.
        branch: `global` or `local`.
        images: gray levels `[B, H, W]` in 0..255.
        train: True makes BatchNorm normalise by the batch and update its statistics.

    Returns:
        The branch's output, and its batch statistics, updated if `train`.
    """
    params = variables["params"][branch]
    batch_stats = variables["batch_stats"][branch]
    apply: Callable[..., Any] = functools.partial(
        model.backbone.apply, train=train, mutable=["batch_stats"] if train else []
    )
    if model.remat and train:
        apply = jax.checkpoint(apply, policy=jax.checkpoint_policies.save_only_these_names(*KEPT))
    feature_map, updated = apply(
        {"params": params["backbone"], "batch_stats": batch_stats["backbone"]},
        normalise(model, images),
    )
    pooled = global_pool(feature_map, model.pooling)
    output = BranchOutput(feature_map, pooled, _linear(params["head"], pooled))
    return output, {"backbone": updated["batch_stats"]} if train else batch_stats


def apply_fusion(
    variables: Variables, pooled_global: jax.Array, pooled_local: jax.Array
) -> jax.Array:
    """Compute the fusion branch's logits `[B, C]` from both Pool5 layers, each `[B, K]`."""
    head = variables["params"]["fusion"]["head"]
    return _linear(head, jnp.concatenate([pooled_global, pooled_local], axis=-1))


def forward(
    model: AGCNN,
    variables: Variables,
    images: jax.Array | None,
    local_images: jax.Array | Callable[[jax.Array], jax.Array] | None,
    train: Collection[str] = (),
    branches: Collection[str] = BRANCHES,
    pooled_global: jax.Array | None = None,
) -> tuple[dict[str, jax.Array], Variables]:
    """Compute the logits of `branches`, and nothing that they do not need.

    Args:
        model: the model.
        variables: weights and statistics of all branches.
        images: gray levels `[B, H, W]` in 0..255, the global branch's input; None if nothing
            needs that branch.
        local_images: the local branch's input in the same form; or a function that makes it from
            the global branch's feature map `[B, h, w, K]`; None if `branches` is `global` alone.
        train: branches in training mode; the others run in inference mode.
        branches: branches whose logits to return.
        pooled_global: the global branch's Pool5 layer `[B, K]` for the fusion branch, if already
            computed.

    Returns:
        `{branch: float32 [B, C]}` before the sigmoid, and the variables with the batch statistics
        that the branches of `train` updated.
    """
    needs_local = "local" in branches or "fusion" in branches
    needs_global = (
        "global" in branches
        or ("fusion" in branches and pooled_global is None)
        or (needs_local and callable(local_images))
    )
    outputs: dict[str, BranchOutput] = {}
    batch_stats = dict(variables["batch_stats"])
    if needs_global:
        if images is None:
            raise ValueError(f"branches {sorted(branches)} need images")
        outputs["global"], batch_stats["global"] = apply_branch(
            model, variables, "global", images, "global" in train
        )
    if needs_local:
        if callable(local_images):
            local_images = local_images(outputs["global"].feature_map)
        if local_images is None:
            raise ValueError(f"branches {sorted(branches)} need local_images")
        outputs["local"], batch_stats["local"] = apply_branch(
            model, variables, "local", local_images, "local" in train
        )
    logits = {branch: output.logits for branch, output in outputs.items() if branch in branches}
    if "fusion" in branches:
        if pooled_global is None:
            pooled_global = outputs["global"].pooled
        logits["fusion"] = apply_fusion(variables, pooled_global, outputs["local"].pooled)
    return logits, {"params": variables["params"], "batch_stats": batch_stats}


def select_branches(variables: Variables, branches: tuple[str, ...]) -> Variables:
    """Take the given branches out of all."""
    return {
        kind: {branch: tree[branch] for branch in tree if branch in branches}
        for kind, tree in variables.items()
    }


def merge_branches(first: Variables, second: Variables) -> Variables:
    """Join two sets of branches; the second wins where both have one."""
    return {kind: {**first[kind], **second[kind]} for kind in first}


def _init_linear(key: jax.Array, features: int, outputs: int) -> dict[str, jax.Array]:
    bound = features**-0.5
    kernel_key, bias_key = jax.random.split(key)
    return {
        "kernel": jax.random.uniform(kernel_key, (features, outputs), minval=-bound, maxval=bound),
        "bias": jax.random.uniform(bias_key, (outputs,), minval=-bound, maxval=bound),
    }


def _linear(head: Mapping[str, jax.Array], pooled: jax.Array) -> jax.Array:
    # By default TPUs and recent GPUs round the factors of float32 products.
    return jnp.matmul(pooled, head["kernel"], precision=jax.lax.Precision.HIGHEST) + head["bias"]
