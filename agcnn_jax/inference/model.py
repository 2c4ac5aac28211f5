"""A trained model to predict with; `agcnn_jax.inference.load` loads one."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import jax
import numpy as np
from jax.sharding import Mesh

from agcnn_jax.data.films import resize_film
from agcnn_jax.data.labels import findings_of
from agcnn_jax.inference.answers import branch_answers
from agcnn_jax.inference.films import NO_PIXELS, DecodedFilm, Film, are_many, as_film, printable
from agcnn_jax.inference.result import Result
from agcnn_jax.metrics.feature_distance import feature_distances
from agcnn_jax.models.agcnn import BRANCHES, Variables
from agcnn_jax.run.calibration import Calibration
from agcnn_jax.run.lineage import Lineage
from agcnn_jax.run.recipe import Recipe, make_recipe
from agcnn_jax.runtime.compilation_cache import keep_compilations
from agcnn_jax.runtime.devices import device_mesh, replicate, shard_batch
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.forks import forked
from agcnn_jax.training.predict_step import EXTRAS, make_predict_step

BATCH = 32
"""Films that `Model.predict` predicts at once."""

_DEVICES = threading.Lock()
"""Held while a program is started: each device must get the programs of all threads in one order,
or those that wait for each other's devices wait for ever (all-reduce, jax 0.10)."""


def check_not_forked() -> None:
    """Raise `UserError` in a process that was forked after JAX was imported, or a JPEG was read.

    JAX's threads do not survive a fork: there, it would wait for them for ever.
    """
    if forked():
        raise UserError(
            "this process was forked from one that had loaded JAX or read a JPEG; start "
            'it with multiprocessing.get_context("spawn"), or load the model only after the fork'
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A trained model, which threads may share; a pickled copy compiles for its own process.

    Attributes:
        name: where it was loaded from.
        config: all keys of `config/keys.py`, nested; those only of training may be defaults.
        labels: name of each of the C outputs; "" for one that was not trained.
        image_size: side S in pixels of the stored images that it was trained on.
        variables: weights and statistics of its branches, numpy arrays.
        calibration: thresholds and Platt's numbers; None where it has none.
        digest: hash of the weights, 16 hex digits.
        lineage: the images that it was trained on.
    """

    name: str
    config: Mapping[str, Any]
    labels: tuple[str, ...]
    image_size: int
    variables: Variables
    calibration: Calibration | None
    digest: str
    lineage: Lineage

    @property
    def backbone(self) -> str:
        """Name of the backbone, a key of `BACKBONES`."""
        return str(self.config["backbone"])

    @property
    def branches(self) -> tuple[str, ...]:
        """The branches that it has, in the order of `BRANCHES`."""
        return tuple(branch for branch in BRANCHES if branch in self.variables["params"])

    @property
    def findings(self) -> tuple[str, ...]:
        """The trained labels that are findings, see `findings_of`."""
        return findings_of(tuple(filter(None, self.labels)))

    def __repr__(self) -> str:
        return f"Model({self.name!r}, {self.backbone}, {' '.join(self.branches)}, {self.digest})"

    def __getstate__(self) -> dict[str, Any]:
        """Pickle what was loaded, without what is compiled and placed on devices."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @functools.cached_property
    def recipe(self) -> Recipe:
        """What its prediction is compiled for."""
        return make_recipe(self.config, len(self.labels))

    def predict_batch(self, images: np.ndarray, heat_maps: bool = False) -> dict[str, jax.Array]:
        """Predict stored images on all devices; compiled once for each B.

        It does not wait for the devices: fetch the results one batch late to keep them busy.

        Args:
            images: uint8 `[B, S, S]`, S the `image_size`; B best a multiple of the devices.
            heat_maps: return the heat maps too.

        Returns:
            The logits of each branch under its name, float32 `[B, C]`; `pooled`, the global
            branch's Pool5 layer, float32 `[B, K]`; `boxes`, int32 `[B, 4]` in pixels of the
            model's input, if a local branch reads crops; and `heat_maps`, float32 `[B, s, s]` in
            0..1, s the side of the model's input.

        Raises:
            ValueError: for another dtype or shape.
            UserError: in a process that was forked after the model was loaded.
        """
        check_not_forked()
        size = self.image_size
        if images.dtype != np.uint8 or images.shape[1:] != (size, size):
            raise ValueError(
                f"images are {images.dtype} {images.shape}; give uint8 of shape (B, {size}, {size})"
            )
        rows = len(images)
        with _DEVICES, self._numerics():
            if missing := -rows % self._mesh.size:
                images = np.concatenate([images, np.zeros((missing, size, size), np.uint8)])
            batch = shard_batch(self._mesh, images)
            outputs = self._steps[heat_maps](self._placed, batch)
            return {name: values[:rows] if missing else values for name, values in outputs.items()}

    @overload
    def predict(self, images: np.ndarray) -> Any: ...

    @overload
    def predict(self, images: Film) -> Result: ...

    @overload
    def predict(self, images: list[Any] | tuple[Any, ...]) -> list[Result]: ...

    def predict(self, images: Film | list[Any] | tuple[Any, ...]) -> Result | list[Result]:
        """Predict one film, or several in batches of at most `BATCH`.

        Args:
            images: a path, a Pillow image or an array, see `films.as_film`; or several of them: a
                list, a tuple or an array `[B, H, W]`. An array of three axes is one film if the
                last are channels, see `films.are_many`.

        Returns:
            A result for one film, a list of results for several.

        Raises:
            UserError: for a film that cannot be read, or whose answer is no finite number; or in a
                process that was forked after the model was loaded.
        """
        check_not_forked()
        several = are_many(images)
        films: Any = images if several else [images]
        batches = (films[i : i + BATCH] for i in range(0, len(films), BATCH))
        results = [result for batch in batches for result in self._predict(batch)]
        return results if several else results[0]

    def _predict(self, images: Sequence[Film]) -> list[Result]:
        """Predict films in one batch."""
        names, films = [], []
        # A program for each power of two, not for each number of films.
        shape = (1 << (len(images) - 1).bit_length(), self.image_size, self.image_size)
        stored = np.zeros(shape, np.uint8)
        for row, image in zip(stored, images, strict=False):
            name, film = as_film(image)
            row[...] = resize_film(film, self.image_size)
            names.append(name)
            films.append(DecodedFilm(row, film.shape[1], film.shape[0], film))
        outputs = jax.device_get(self.predict_batch(stored, heat_maps=True))
        results = []
        for i, result in enumerate(self.results(names, films, outputs)):
            if isinstance(result, str):
                name = printable(names[i]) or f"image {i} of the batch"
                raise UserError(f"{name}: {result}; look at the film and at the model")
            results.append(result)
        return results

    def results(
        self, names: Sequence[str], films: Sequence[DecodedFilm], outputs: Mapping[str, np.ndarray]
    ) -> Iterator[Result | str]:
        """Yield a result for each film of a batch, or the reason why its outputs give none.

        Args:
            names: of the films.
            films: the first of the batch.
            outputs: see `predict_batch`, in host memory; row i is of the i-th film.
        """
        if not films:
            return
        distances = self.distances(outputs["pooled"][: len(films)])
        finite = np.all([np.isfinite(outputs[name]).all(axis=1) for name in self.branches], axis=0)
        for i, (name, film) in enumerate(zip(names, films, strict=True)):
            if not finite[i]:
                yield "the model's answer is no finite number"
                continue
            logits = {branch: outputs[branch][i] for branch in self.branches}
            yield Result(
                name=name,
                findings=self.findings,
                branches=branch_answers(logits, self.labels, self.calibration),
                width=film.width,
                height=film.height,
                film=film.shown,
                input_box=outputs["boxes"][i] if "boxes" in outputs else None,
                input_heat_map=outputs["heat_maps"][i] if "heat_maps" in outputs else NO_PIXELS,
                input_size=self.recipe.input_size,
                stored_size=self.image_size,
                distance=None if distances is None else float(distances[i]),
                synthetic=self.lineage.synthetic,
            )

    def distances(self, pooled: np.ndarray) -> np.ndarray | None:
        """Return the distances `[n]` of films from the training films, 1 at the threshold.

        They have `pooled` features, float32 `[n, K]`, see `predict_batch`. Returns None if the
        calibration knows no features.
        """
        features = self.calibration and self.calibration.features
        return None if not features else feature_distances(features, pooled) / features.threshold

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
