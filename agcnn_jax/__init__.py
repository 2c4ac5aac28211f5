"""AG-CNN (Guan et al. 2018) in JAX and Flax: three branches, three stages, one AUC table."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agcnn_jax.inference.model import Model

__version__ = "0.2.0"


def load(
    source: str | os.PathLike[str], engine: str | None = None, precision: str | None = None
) -> Model:
    """Load a trained model to predict films with.

    This imports JAX and the model's code, which `import agcnn_jax` does not; nothing that only
    training needs is imported. A folder with an ONNX file needs no JAX.

    >>> import agcnn_jax
    >>> model = agcnn_jax.load("runs/demo")
    >>> result = model.predict("film.png")
    >>> 0 < result.probability["Nodule"] < 1
    True
    >>> result.heat_map.shape == result.film.shape
    True
    >>> [one.name for one in model.predict(["film.png", "film.png"])]
    ['film.png', 'film.png']
    >>> result.show().savefig("nodule.png")

    Args:
        source: a run's workdir; a folder of converted weights (from
            `agcnn-prepare torch_weights`); a folder that `agcnn-export` wrote; or such a folder on
            the Hugging Face hub, `hf://OWNER/NAME` or `hf://OWNER/NAME@REVISION`.
        engine: what computes an ONNX file, `openvino` or `onnxruntime`; by default OpenVINO where
            it is installed, else onnxruntime.
        precision: in which OpenVINO computes, `float32` (the default) or `bfloat16`, which changes
            probabilities and boxes.

    Returns:
        The model; see `agcnn_jax.inference.model.Model` and, for what it says about a film,
        `agcnn_jax.inference.result.Result`.

    Raises:
        agcnn_jax.runtime.errors.UserError: if there is no model, or a damaged one.
    """
    from agcnn_jax.inference.load import load

    return load(source, engine, precision)
