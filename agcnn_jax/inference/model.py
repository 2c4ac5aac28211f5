"""A trained model, loaded from where training or conversion left it, to predict with."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from agcnn_jax.data.labels import NO_FINDING
from agcnn_jax.interop import weights
from agcnn_jax.models.agcnn import BRANCHES, Variables
from agcnn_jax.run import lineage
from agcnn_jax.run.calibration import Calibration, read_calibration
from agcnn_jax.run.lineage import Lineage
from agcnn_jax.run.plain_config import plain_config
from agcnn_jax.run.recipe import Recipe, make_recipe
from agcnn_jax.run.stage_results import digests, finished_stages, finished_variables
from agcnn_jax.runtime.compilation_cache import keep_compilations
from agcnn_jax.runtime.devices import device_mesh, replicate, shard_batch
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.storage import checkpoint_place, exists, read_json
from agcnn_jax.training.steps import EXTRAS, make_predict_step

if TYPE_CHECKING:
    from agcnn_jax.inference.films import Film
    from agcnn_jax.inference.result import Result

BATCH = 32
"""Films that `Model.predict` predicts at once."""

STORED_SIZE = 256
"""Side of the stored images (Section IV-B) where weights do not say what they were trained on."""


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A trained model.

    Attributes:
        name: where it was loaded from, for messages.
        config: all keys of `run/keys.py`, nested; those that only training reads may be defaults.
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
        """The labels that are findings."""
        return tuple(label for label in self.labels if label not in ("", NO_FINDING))

    def __repr__(self) -> str:
        return f"Model({self.name!r}, {self.backbone}, {' '.join(self.branches)}, {self.digest})"

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
            The logits `{branch: float32 [B, C]}`; `pooled`, the global branch's Pool5 layer,
            float32 `[B, K]`; `boxes`, int32 `[B, 4]` in pixels of the model's input, if a local
            branch reads crops; and `heat_maps`, float32 `[B, s, s]` in 0..1, s the side of the
            model's input.

        Raises:
            ValueError: for another dtype or shape.
        """
        size = self.image_size
        if images.dtype != np.uint8 or images.shape[1:] != (size, size):
            raise ValueError(
                f"images are {images.dtype} {images.shape}; give uint8 of shape (B, {size}, {size})"
            )
        rows = len(images)
        if missing := -rows % self._mesh.size:
            images = np.concatenate([images, np.zeros((missing, size, size), np.uint8)])
        with self._numerics():
            batch = shard_batch(self._mesh, images)
            outputs = self._steps[heat_maps](self._placed, batch)
            return {name: values[:rows] if missing else values for name, values in outputs.items()}

    @overload
    def predict(self, images: Film) -> Result: ...

    @overload
    def predict(self, images: list[Any]) -> list[Result]: ...

    def predict(self, images: Film | list[Any]) -> Result | list[Result]:
        """Predict one film, or a list of films in batches of at most `BATCH`.

        Args:
            images: a path, a Pillow image or an array, see `films.as_film`; or a list of them.

        Raises:
            UserError: for a film that cannot be read.
        """
        from agcnn_jax.inference.films import predict_films

        if not isinstance(images, list):
            return predict_films(self, [images])[0]
        batches = (images[i : i + BATCH] for i in range(0, len(images), BATCH))
        return [result for batch in batches for result in predict_films(self, batch)]

    @functools.cached_property
    def _mesh(self) -> Mesh:
        return device_mesh()

    @functools.cached_property
    def _placed(self) -> Variables:
        placed: Variables = replicate(self._mesh, self.variables)
        return placed

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


def load_run(workdir: str | os.PathLike[str]) -> Model:
    """Load the best weights of a run's finished stages.

    Args:
        workdir: of the run; a folder, or `gs://`.

    Raises:
        UserError: if nothing is trained there, or a file is damaged.
    """
    directory = checkpoint_place(workdir)
    name = f"--workdir {directory}"
    path = directory / "config.json"
    if not exists(path):
        raise UserError(
            f"nothing is trained in {name}; train first: python train.py --config ... --workdir "
            f"{workdir}"
        )
    config = plain_config(read_json(path), str(path))
    variables, saved = finished_variables(
        directory, config["strategy"], {"backbone": config["backbone"]}
    )
    return Model(
        name=name,
        config=config,
        labels=tuple(saved["labels"]),
        image_size=_stored_size(directory, config),
        variables=variables,
        calibration=read_calibration(directory, digests(variables, variables["params"])),
        digest=lineage.digest(variables),
        lineage=lineage.read(directory)[0],
    )


def _stored_size(directory: epath.Path, config: Mapping[str, Any]) -> int:
    """Read the side of a run's stored images: from its last stage or, of version 0.1, its data."""
    _, result = finished_stages(directory, config["strategy"])[-1]
    if "image_size" in result:
        return int(result["image_size"])
    from agcnn_jax.data.records import STORE
    from agcnn_jax.data.store import read_metadata

    data = config["data"]["dir"]
    try:
        return int(read_metadata(Path(data) / STORE)["image_size"])
    except UserError:
        raise UserError(
            f"--workdir {directory} does not say how large its images were, and its data are not "
            f"in {data}; put them back there"
        ) from None


def load_weights(directory: str | os.PathLike[str]) -> Model:
    """Load converted weights: a single network as the global branch, or a whole AG-CNN.

    The input is the paper's, and films are stored with a side of `STORED_SIZE`.

    Args:
        directory: the folder that data_prep/torch_weights.py wrote.

    Raises:
        UserError: if it holds no converted weights or damaged ones, or its outputs have no names.
    """
    about = weights.describe(directory)
    name = f"--weights {os.fspath(directory)}"
    if about["classes"] is None:
        raise UserError(
            f"{name}: weights.json does not name the outputs; convert the weights again with "
            f"data_prep/torch_weights.py --classes NAME,NAME,..., one name for each output"
        )
    return Model(
        name=name,
        config=plain_config({key: about[key] for key in weights.SETTINGS}, name),
        labels=tuple(about["classes"]),
        image_size=STORED_SIZE,
        variables=weights.load_weights(directory),
        calibration=None,
        digest=about["digest"],
        lineage=weights.lineage(directory),
    )
