"""Loading the models that JAX computes: of runs, converted weights and exported weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict

from agcnn_jax.config.keys import DEFAULTS, nest
from agcnn_jax.config.saved import parse_config
from agcnn_jax.inference.jax_model import JaxModel
from agcnn_jax.inference.model_files import WEIGHTS, check_labels, from_safetensors, misfit
from agcnn_jax.interop import weights
from agcnn_jax.models.agcnn import BRANCHES, Variables, init_variables
from agcnn_jax.run import lineage
from agcnn_jax.run.calibration import read_calibration
from agcnn_jax.run.recipe import make_recipe
from agcnn_jax.run.stage_results import digests, finished_variables
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.storage import checkpoint_place, exists, read_json

STORED_SIZE = 256
"""Side of the stored images (Section IV-B) where weights do not say what they were trained on."""


def load_run(workdir: str | os.PathLike[str]) -> JaxModel:
    """Load the best weights of a run's finished stages; its workdir is a folder, or `gs://`.

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
    config = parse_config(read_json(path), str(path))
    variables, saved = finished_variables(
        directory, config["strategy"], {"backbone": config["backbone"]}
    )
    return JaxModel(
        name=os.fspath(workdir),
        config=config,
        labels=tuple(saved["labels"]),
        image_size=saved["image_size"],
        variables=variables,
        calibration=read_calibration(directory, digests(variables, variables["params"])),
        digest=lineage.digest(variables),
        lineage=lineage.read(directory)[0],
    )


def load_converted(directory: str | os.PathLike[str]) -> JaxModel:
    """Load converted weights: a single network as the global branch, or a whole AG-CNN.

    The input is the paper's, and films are stored with a side of `STORED_SIZE`. The directory is
    one that data_prep/torch_weights.py wrote.

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
    check_labels(about["classes"], name)
    config = nest(DEFAULTS | {key: about[key] for key in weights.SETTINGS})
    return JaxModel(
        name=os.fspath(directory),
        config=parse_config(config, f"{name}, weights.json", weights.CONVERT_AGAIN),
        labels=tuple(about["classes"]),
        image_size=STORED_SIZE,
        variables=weights.load_weights(directory),
        calibration=None,
        digest=about["digest"],
        lineage=weights.lineage(directory),
    )


def read_weights(
    content: bytes, folder: Path | epath.Path, digest: str, config: Mapping[str, Any], labels: int
) -> Variables:
    """Read the weights of an exported model.

    Args:
        content: of the file of weights.
        folder: of the model, for messages.
        digest: of the weights, as its config says.
        config: nested, all keys.
        labels: number of outputs.

    Raises:
        UserError: they are damaged, or of another model.
    """
    variables = from_safetensors(content, folder / WEIGHTS)
    try:
        fit = digest == lineage.digest(variables) and _fits(variables, config, labels)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        fit = False
    if not fit:
        raise misfit(folder)
    return variables


def _fits(variables: Variables, config: Mapping[str, Any], label_count: int) -> bool:
    """Tell whether weights are finite numbers, with the names and shapes of the config's model."""
    recipe = make_recipe(config, label_count)
    whole: Any = jax.eval_shape(
        lambda: init_variables(recipe.model, jax.random.key(0), recipe.input_size)
    )
    branches = tuple(variables["params"])
    if set(branches) not in [set(BRANCHES[:count]) for count in (1, 2, 3)]:
        return False
    expected = {kind: {name: tree[name] for name in branches} for kind, tree in whole.items()}
    arrays, wanted = flatten_dict(variables), flatten_dict(expected)
    return arrays.keys() == wanted.keys() and all(
        array.shape == wanted[name].shape
        and jnp.issubdtype(array.dtype, jnp.floating)
        and bool(np.isfinite(array).all())
        for name, array in arrays.items()
    )
