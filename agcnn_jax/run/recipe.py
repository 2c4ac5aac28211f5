"""The part of a config that a step is compiled for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from agcnn_jax.config.strategies import Stage
from agcnn_jax.data.augment import Augmentation
from agcnn_jax.models.agcnn import AGCNN
from agcnn_jax.models.registry import make_backbone
from agcnn_jax.runtime.devices import BATCH_AXIS


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a training step is compiled for.

    `local_input` is `crop`, or one of two controls: with `image`, the local branch reads the whole
    image too (Section IV-C); with `centred`, a crop of the attended box's size in the centre.
    """

    model: AGCNN
    seed: int  # the run's; in a stage's recipe the stage's own, which draws its crops
    input_size: int  # side of the model's input in pixels
    augmentation: Augmentation
    statistic: str = "max"  # of the heat map: max, l1 or l2
    tau: float = 0.7  # threshold of the heat map in 0..1
    local_input: str = "crop"
    crop_from: str = "input"  # what crops are cut from: input, or stored for the stored images
    missing_labels: bool = False  # some labels of the data set may be `MISSING`

    @property
    def image_dtype(self) -> Any:
        """Return the dtype of the model's input: float32, or float64 in a float64 run."""
        return jnp.promote_types(self.model.backbone.dtype or jnp.float32, jnp.float32)

    @property
    def own_statistics(self) -> bool:
        """Tell whether each device's BatchNorm normalises by its own share of the batch."""
        return self.model.backbone.axis_name is None

    def for_stage(self, stage: Stage) -> Recipe:
        """Make the recipe of a stage, which has a seed of its own."""
        return dataclasses.replace(self, seed=stage.seed(self.seed))


def make_recipe(config: Mapping[str, Any], label_count: int) -> Recipe:
    """Make the recipe of a run.

    Args:
        config: nested, as `ConfigDict.to_dict` returns it or as a run's `config.json` holds it.
        label_count: length C of the label vector.
    """
    augment, attention = config["augment"], config["attention"]
    axis = BATCH_AXIS if config["batch_norm"] == "global" else None
    return Recipe(
        model=AGCNN(
            make_backbone(config["backbone"], axis, jnp.dtype(config["dtype"])),
            label_count=label_count,
            pooling=config["pooling"],
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
            remat=config["remat"],
        ),
        seed=config["seed"],
        input_size=config["input_size"],
        augmentation=Augmentation(
            augment["crop"], tuple(augment["scale"]), tuple(augment["ratio"]), augment["flip"]
        ),
        statistic=attention["statistic"],
        tau=attention["tau"],
        local_input=config["local_input"],
        crop_from=attention["crop_from"],
    )
