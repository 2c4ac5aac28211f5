"""A model that JAX computes."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import threading
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from agcnn_jax.inference.model import Model
from agcnn_jax.models.agcnn import BRANCHES, Variables
from agcnn_jax.run.recipe import Recipe, make_recipe
from agcnn_jax.runtime.compilation_cache import keep_compilations
from agcnn_jax.runtime.devices import device_mesh, replicate, shard_batch
from agcnn_jax.training.predict_step import EXTRAS, make_predict_step

_DEVICES = threading.Lock()
"""Held while a program is started: each device must get the programs of all threads in one order,
or those that wait for each other's devices wait for ever (all-reduce, jax 0.10)."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class JaxModel(Model):
    """A model that JAX computes; a pickled copy compiles for its own process.

    Attributes:
        variables: weights and statistics of its branches, numpy arrays.
    """

    variables: Variables

    @property
    def branches(self) -> tuple[str, ...]:
        """The branches that it has, in the order of `BRANCHES`."""
        return tuple(branch for branch in BRANCHES if branch in self.variables["params"])

    @functools.cached_property
    def recipe(self) -> Recipe:
        """What its prediction is compiled for."""
        return make_recipe(self.config, len(self.labels))

    def _compute(self, images: np.ndarray, heat_maps: bool) -> dict[str, jax.Array]:
        rows, size = len(images), self.image_size
        with _DEVICES, self._numerics():
            if missing := -rows % self._mesh.size:
                images = np.concatenate([images, np.zeros((missing, size, size), np.uint8)])
            batch = shard_batch(self._mesh, images)
            outputs = self._steps[heat_maps](self._placed, batch)
            return {name: values[:rows] if missing else values for name, values in outputs.items()}

    def _rows(self, films: int) -> int:
        """Return a power of two: a program for each of these, not for each number of films."""
        return 1 << (films - 1).bit_length()

    @functools.cached_property
    def _mesh(self) -> Mesh:
        return device_mesh()

    @functools.cached_property
    def _placed(self) -> Any:
        return replicate(self._mesh, self.variables)

    @functools.cached_property
    def _steps(self) -> dict[bool, Any]:
        """The step without and with heat maps."""
        keep_compilations()
        return {
            heat_maps: make_predict_step(
                self.recipe, self._mesh, self.branches, extras=EXTRAS if heat_maps else ("pooled",)
            )
            for heat_maps in (False, True)
        }

    @contextlib.contextmanager
    def _numerics(self) -> Iterator[None]:
        """Compute as the run did, whatever the caller's settings are."""
        precision, double = self.config["matmul_precision"], self.config["dtype"] == "float64"
        with jax.default_matmul_precision(precision), jax.enable_x64(double):
            yield
