"""What a config names, opened: data, split, model, devices."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from etils import epath
from jax.sharding import Mesh

from agcnn_jax.data.augment import Augmentation
from agcnn_jax.data.records import Records, open_records
from agcnn_jax.data.splits import Split, make_split
from agcnn_jax.models.agcnn import AGCNN
from agcnn_jax.models.registry import make_backbone
from agcnn_jax.run.strategies import Stage
from agcnn_jax.runtime.devices import BATCH_AXIS, device_mesh


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a training step is compiled for.

    With `local_input` `image` instead of `crop`, the local branch reads the whole image too, which
    is the paper's control experiment (Section IV-C).
    """

    model: AGCNN
    seed: int  # the run's; in a stage's recipe the stage's own, which draws its crops
    input_size: int  # side of the model's input in pixels
    augmentation: Augmentation
    statistic: str = "max"  # of the heat map: max, l1 or l2
    tau: float = 0.7  # threshold of the heat map in 0..1
    local_input: str = "crop"

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


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What stays the same throughout a run."""

    config: ml_collections.ConfigDict
    workdir: epath.Path
    records: Records
    split: Split
    recipe: Recipe
    mesh: Mesh

    @property
    def identity(self) -> dict[str, Any]:
        """Return the facts in which weights must agree with this run."""
        model = self.recipe.model
        return {
            "backbone": self.config.backbone,
            "pooling": model.pooling,
            "channels": len(model.mean),
            "labels": list(self.records.labels),
        }

    @property
    def data_summary(self) -> dict[str, Any]:
        """Return what a run records about its data, and must find unchanged when it resumes."""
        return {
            "provenance": self.records.provenance,
            "fingerprint": self.records.fingerprint,
            "images": len(self.records),
            **self.split.summary(),
        }


def open_experiment(config: ml_collections.ConfigDict, workdir: epath.Path) -> Experiment:
    """Open the store, split it and describe the model; `UserError` if one of them cannot be."""
    if config.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    # For convolutions and products that set no precision themselves: the backbones'.
    jax.config.update("jax_default_matmul_precision", config.matmul_precision)
    data, augment, attention = config.data, config.augment, config.attention
    records = open_records(data.dir)
    split = make_split(
        records,
        data.protocol,
        data.split_seed,
        lists=data.lists or None,
        allow_unlisted=data.allow_unlisted,
    )
    axis = BATCH_AXIS if config.batch_norm == "global" else None
    recipe = Recipe(
        model=AGCNN(
            make_backbone(config.backbone, axis, jnp.dtype(config.dtype)),
            label_count=len(records.labels),
            pooling=config.pooling,
            mean=tuple(config.mean),
            std=tuple(config.std),
        ),
        seed=config.seed,
        input_size=config.input_size,
        augmentation=Augmentation(
            augment.crop, tuple(augment.scale), tuple(augment.ratio), augment.flip
        ),
        statistic=attention.statistic,
        tau=attention.tau,
        local_input=config.local_input,
    )
    return Experiment(config, workdir, records, split, recipe, device_mesh())
