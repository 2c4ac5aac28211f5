"""Backbones by their names in configs; importing this module imports no JAX."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from agcnn_jax.runtime.errors import UserError

if TYPE_CHECKING:
    import flax.linen as nn
    from jax.typing import DTypeLike


def _resnet(**settings: Any) -> nn.Module:
    from agcnn_jax.models.resnet import ResNet

    return ResNet(**settings)


def _densenet(**settings: Any) -> nn.Module:
    from agcnn_jax.models.densenet import DenseNet

    return DenseNet(**settings)


BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "resnet50": _resnet,
    "densenet121": _densenet,
    # For demonstrations on a CPU: one block per layer and a quarter of the width.
    "resnet_small": functools.partial(_resnet, blocks=(1, 1, 1, 1), width=16),
    # For many trainings on a CPU. Without the last layer an input of 64 pixels has 4x4 positions.
    "resnet_tiny": functools.partial(_resnet, blocks=(1, 1, 1), width=16),
}


def make_backbone(
    name: str, axis_name: str | None = None, dtype: DTypeLike | None = None
) -> nn.Module:
    """Build a backbone.

    Args:
        name: a key of `BACKBONES`.
        axis_name: mapped axis that BatchNorm averages over; None for each device's own statistics.
        dtype: dtype of the computation.

    Raises:
        UserError: if there is no such backbone.
    """
    if name not in BACKBONES:
        raise UserError(f"config.backbone is {name!r}; use one of {', '.join(BACKBONES)}")
    return BACKBONES[name](axis_name=axis_name, dtype=dtype)
