"""A trained model to predict with; `agcnn_jax.inference.load` loads one."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np

from agcnn_jax.data.films import resize_film
from agcnn_jax.data.labels import findings_of
from agcnn_jax.inference.answers import branch_answers
from agcnn_jax.inference.films import NO_PIXELS, DecodedFilm, Film, are_many, as_film, printable
from agcnn_jax.inference.result import Result
from agcnn_jax.metrics.feature_distance import feature_distances
from agcnn_jax.run.calibration import Calibration
from agcnn_jax.run.lineage import Lineage
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.forks import check_not_forked

BATCH = 32
"""Films that `Model.predict` predicts at once."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Model(abc.ABC):
    """A trained model, which threads may share; a pickled copy prepares itself for its process.

    Attributes:
        name: where it was loaded from.
        config: all keys of `config/keys.py`, nested; those only of training may be defaults.
        labels: name of each of the C outputs; "" for one that was not trained.
        image_size: side S in pixels of the stored images that it was trained on.
        calibration: thresholds and Platt's numbers; None where it has none.
        digest: hash of the weights, 16 hex digits.
        lineage: the images that it was trained on.
    """

    name: str
    config: Mapping[str, Any]
    labels: tuple[str, ...]
    image_size: int
    calibration: Calibration | None
    digest: str
    lineage: Lineage

    @property
    def backbone(self) -> str:
        """Name of the backbone, a key of `BACKBONES`."""
        return str(self.config["backbone"])

    @property
    @abc.abstractmethod
    def branches(self) -> tuple[str, ...]:
        """The branches that it has, in the order of `BRANCHES`."""

    @property
    def findings(self) -> tuple[str, ...]:
        """The trained labels that are findings, see `findings_of`."""
        return findings_of(tuple(filter(None, self.labels)))

    @property
    def input_size(self) -> int:
        """Side s of the model's input in pixels."""
        return int(self.config["input_size"])

    @property
    def computed_by(self) -> Mapping[str, str]:
        """What its answers depend on beside the weights, by the names of options."""
        return {}

    def __repr__(self) -> str:
        return f"Model({self.name!r}, {self.backbone}, {' '.join(self.branches)}, {self.digest})"

    def __getstate__(self) -> dict[str, Any]:
        """Pickle what was loaded, without what is compiled and placed on devices."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def predict_batch(self, images: np.ndarray, heat_maps: bool = False) -> dict[str, Any]:
        """Predict stored images.

        JAX does so on all devices, compiled once for each B, and without waiting for them: fetch
        the results one batch late to keep them busy. A model of an ONNX file waits.

        Args:
            images: uint8 `[B, S, S]`, S the `image_size`; B at least 1, best a multiple of the
                devices.
            heat_maps: return the heat maps too.

        Returns:
            The logits of each branch under its name, float32 `[B, C]`; `pooled`, the global
            branch's Pool5 layer, float32 `[B, K]`; `boxes`, int32 `[B, 4]` in pixels of the
            model's input, if a local branch reads crops; and `heat_maps`, float32 `[B, s, s]` in
            0..1, s the side of the model's input. Arrays of JAX, or of NumPy.

        Raises:
            ValueError: for another dtype or shape.
            UserError: in a process that was forked after the model was loaded.
        """
        check_not_forked()
        size = self.image_size
        if images.dtype != np.uint8 or images.shape[1:] != (size, size) or not len(images):
            raise ValueError(
                f"images are {images.dtype} {images.shape}; give uint8 of shape (B, {size}, "
                f"{size}), B at least 1"
            )
        return self._compute(images, heat_maps)

    @abc.abstractmethod
    def _compute(self, images: np.ndarray, heat_maps: bool) -> dict[str, Any]:
        """Do what `predict_batch` says, of images that fit."""

    def _rows(self, films: int) -> int:
        """Return the size of the batch for so many films."""
        return films

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
        stored = np.zeros((self._rows(len(images)), self.image_size, self.image_size), np.uint8)
        for row, image in zip(stored, images, strict=False):
            name, film = as_film(image)
            row[...] = resize_film(film, self.image_size)
            names.append(name)
            films.append(DecodedFilm(row, film.shape[1], film.shape[0], film))
        outputs = on_host(self.predict_batch(stored, heat_maps=True))
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
                input_size=self.input_size,
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


def on_host(outputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Wait for the results of `Model.predict_batch`; return them as NumPy's arrays."""
    return {name: np.asarray(values) for name, values in outputs.items()}
