"""A run: its config, with the data, split, model and devices that it names."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
from etils import epath
from jax.sharding import Mesh

from agcnn_jax.data.records import Records, open_records
from agcnn_jax.data.splits import Split, make_split
from agcnn_jax.run.recipe import Recipe, make_recipe
from agcnn_jax.runtime.devices import device_mesh


@dataclasses.dataclass(frozen=True)
class Run:
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
            "synthetic": self.records.synthetic,
            "fingerprint": self.records.fingerprint,
            "images": len(self.records),
            **self.split.summary(),
        }


def open_run(
    config: ml_collections.ConfigDict,
    workdir: epath.Path,
    choose_split: Callable[[Records], Split] | None = None,
) -> Run:
    """Open the store, split it and describe the model; `UserError` if one of them cannot be.

    `choose_split` splits the store in another way than the config says.
    """
    if config.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    # For convolutions and products that set no precision themselves: the backbones'.
    jax.config.update("jax_default_matmul_precision", config.matmul_precision)
    data = config.data
    records = open_records(data.dir)
    split = (choose_split or functools.partial(split_of, data))(records)
    recipe = make_recipe(config.to_dict(), len(records.labels))
    recipe = dataclasses.replace(recipe, missing_labels=records.has_missing)
    return Run(config, workdir, records, split, recipe, device_mesh())


def split_of(data: ml_collections.ConfigDict, records: Records) -> Split:
    """Split a store as the keys `config.data` say; see `make_split`."""
    lists, unlisted = data.lists or None, data.allow_unlisted
    return make_split(records, data.protocol, data.split_seed, lists, allow_unlisted=unlisted)
