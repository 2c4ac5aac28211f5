"""Loading a model from any place that can hold one."""

from __future__ import annotations

import os

from agcnn_jax.inference.model import Model, load_run, load_weights
from agcnn_jax.interop.weights import is_weights
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.storage import absolute, exists


def load(source: str | os.PathLike[str]) -> Model:
    """Load a model from a run, converted weights, or a folder that was handed on.

    Raises:
        UserError: if there is none, or a damaged one.
    """
    if is_weights(source):
        return load_weights(source)
    if exists(absolute(source) / "config.json"):
        return load_run(source)
    raise UserError(
        f"{os.fspath(source)} holds no model; give a run's workdir, a folder of converted weights, "
        f"or a folder that python -m agcnn_jax.export wrote"
    )
