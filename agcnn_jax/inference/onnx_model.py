"""A model in an ONNX file, which is computed without JAX."""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from agcnn_jax.inference.model import Model
from agcnn_jax.inference.model_files import AGAIN, CONFIG
from agcnn_jax.inference.onnx_engines import Engine, Port, brief, start
from agcnn_jax.runtime.errors import UserError

_CORES = threading.Lock()
"""Held while a batch is computed, which takes all cores: more at once would take more memory."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class OnnxModel(Model):
    """A model in an ONNX file; a pickled copy starts an engine in its own process.

    Attributes:
        heads: the branches whose logits it computes.
        program: content of the file.
        path: of the file, for messages.
        engine: what computes it, of `onnx_engines.ENGINES`.
        precision: in which it computes, of `onnx_engines.PRECISIONS`.
    """

    heads: tuple[str, ...]
    program: bytes
    path: str
    engine: str
    precision: str

    @property
    def branches(self) -> tuple[str, ...]:
        """The branches that it has, in the order of `BRANCHES`."""
        return self.heads

    @property
    def computed_by(self) -> Mapping[str, str]:
        """What its answers depend on beside the weights, by the names of options."""
        return {"--engine": self.engine, "--precision": self.precision}

    def check(self) -> None:
        """Start the engine, and check the inputs and outputs.

        Raises:
            UserError: the file is damaged, or holds another model.
        """
        with _CORES:
            engine = self._started
        size = self.image_size
        known = {"images": Port("uint8", (None, size, size)), "tau": Port("float32", ())}
        found = {"input images": None} | {f"input {name}": x for name, x in engine.inputs.items()}
        found |= {f"output {name}": engine.outputs.get(name) for name in self._outputs}
        wanted = {f"input {name}": port for name, port in known.items()}
        wanted |= {f"output {name}": port for name, port in self._outputs.items()}
        for name, port in found.items():
            if port is None or name not in wanted or not _fits(port, wanted[name]):
                raise UserError(
                    f"{self.path} is not the model that {CONFIG} describes: its {name} is "
                    f"{_said(port)}, not {_said(wanted.get(name))}; {AGAIN}"
                )

    def _compute(self, images: np.ndarray, heat_maps: bool) -> dict[str, Any]:
        expected = {
            name: Port(port.dtype, (len(images), *port.shape[1:]))
            for name, port in self._outputs.items()
            if heat_maps or name != "heat_maps"
        }
        given = {"images": images}
        with _CORES:
            if "tau" in self._started.inputs:
                given["tau"] = np.array(self.config["attention"]["tau"], np.float32)
            try:
                outputs = self._started.run(given, list(expected))
            except MemoryError:
                raise
            except Exception as error:  # engines have no class for a program that fails
                raise UserError(
                    f"{self.path} cannot be computed by {self.engine} for {len(images)} images "
                    f"({brief(error)}); give fewer at a time, or {AGAIN}"
                ) from error
        for name, values in outputs.items():
            if not _fits(port := Port(values.dtype.name, values.shape), expected[name]):
                raise UserError(
                    f"{self.path}: its output {name} came as {_said(port)}, not "
                    f"{_said(expected[name])}; {AGAIN}"
                )
        return outputs

    @property
    def _outputs(self) -> dict[str, Port]:
        """The outputs that predicting reads, see `predict_batch`."""
        features = self.calibration and self.calibration.features
        side = self.input_size
        outputs = {head: Port("float32", (None, len(self.labels))) for head in self.heads}
        outputs["pooled"] = Port("float32", (None, len(features.mean) if features else None))
        outputs["heat_maps"] = Port("float32", (None, side, side))
        if len(self.heads) > 1 and self.config["local_input"] != "image":
            outputs["boxes"] = Port("int32", (None, 4))
        return outputs

    @functools.cached_property
    def _started(self) -> Engine:
        return start(self.program, self.path, self.engine, self.precision)


def _fits(port: Port, expected: Port) -> bool:
    """Tell whether dtypes are the same and no two sizes differ where both are known."""
    return (
        port.dtype == expected.dtype
        and len(port.shape) == len(expected.shape)
        and all(
            one is None or other is None or one == other
            for one, other in zip(port.shape, expected.shape, strict=True)
        )
    )


def _said(port: Port | None) -> str:
    if port is None:
        return "missing"
    sizes = ", ".join("any" if size is None else str(size) for size in port.shape)
    return f"{port.dtype} [{sizes}]"
