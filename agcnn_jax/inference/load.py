"""Loading a model from any place that can hold one."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict

from agcnn_jax.config.keys import DEFAULTS, flatten, nest
from agcnn_jax.config.saved import parse_config
from agcnn_jax.inference.model import Model, check_not_forked
from agcnn_jax.inference.model_files import (
    AGAIN,
    CALIBRATION,
    CONFIG,
    LINEAGE,
    PLACES,
    SUMS,
    WEIGHTS,
    from_safetensors,
    listed,
    read_exported_config,
    read_folder,
)
from agcnn_jax.interop import hub, weights
from agcnn_jax.models.agcnn import BRANCHES, Variables, init_variables
from agcnn_jax.run import lineage
from agcnn_jax.run.calibration import calibration_of, read_calibration
from agcnn_jax.run.lineage import Lineage
from agcnn_jax.run.recipe import make_recipe
from agcnn_jax.run.stage_results import digests, finished_variables
from agcnn_jax.runtime.devices import check_devices
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.paths import expanded_path
from agcnn_jax.runtime.storage import (
    absolute,
    checkpoint_place,
    exists,
    is_remote,
    parse_json,
    read_json,
)

STORED_SIZE = 256
"""Side of the stored images (Section IV-B) where weights do not say what they were trained on."""


def load(source: str | os.PathLike[str]) -> Model:
    """Load a model from a run, converted weights, or an exported model.

    Raises:
        UserError: if there is none, or a damaged one; if JAX finds no device; or in a process that
            was forked after another model was loaded.
    """
    check_not_forked()
    check_devices()
    if os.fspath(source).startswith(hub.SCHEME):
        return load_exported(source)
    folder = absolute(source)
    if exists(folder / WEIGHTS) or exists(folder / SUMS):
        return load_exported(source)
    if weights.is_weights(source):
        return load_converted(source)
    if exists(folder / "config.json"):
        return load_run(source)
    raise UserError(
        f"{os.fspath(source)} holds no model; give a run's workdir, a folder of converted weights, "
        f"or a folder that python -m agcnn_jax.export wrote"
    )


def load_run(workdir: str | os.PathLike[str]) -> Model:
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
    return Model(
        name=os.fspath(workdir),
        config=config,
        labels=tuple(saved["labels"]),
        image_size=saved["image_size"],
        variables=variables,
        calibration=read_calibration(directory, digests(variables, variables["params"])),
        digest=lineage.digest(variables),
        lineage=lineage.read(directory)[0],
    )


def load_converted(directory: str | os.PathLike[str]) -> Model:
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
    _check_labels(about["classes"], name)
    config = nest(DEFAULTS | {key: about[key] for key in weights.SETTINGS})
    return Model(
        name=os.fspath(directory),
        config=parse_config(config, f"{name}, weights.json", weights.CONVERT_AGAIN),
        labels=tuple(about["classes"]),
        image_size=STORED_SIZE,
        variables=weights.load_weights(directory),
        calibration=None,
        digest=about["digest"],
        lineage=weights.lineage(directory),
    )


def load_exported(source: str | os.PathLike[str]) -> Model:
    """Load a model that `python -m agcnn_jax.export` wrote.

    The source is its folder, on a disk or in a bucket; or `hf://OWNER/NAME` or
    `hf://OWNER/NAME@REVISION` for one on the Hugging Face hub, which is downloaded to the hub's
    cache.

    Raises:
        UserError: if the folder is missing, incomplete or changed, or cannot be downloaded.
    """
    text = os.fspath(source)
    folder: Path | epath.Path
    if text.startswith(hub.SCHEME):
        folder = _downloaded(text)
    else:
        folder = absolute(text) if is_remote(text) else expanded_path(text)
    files = read_folder(folder)
    about = read_exported_config(files[CONFIG], folder / CONFIG)
    variables = from_safetensors(files[WEIGHTS], folder / WEIGHTS)
    try:
        if about["digest"] != lineage.digest(variables):
            raise ValueError
        images = Lineage.from_json(parse_json(files[LINEAGE], folder / LINEAGE, AGAIN))
        labels = tuple(about["labels"])
        heads = {len(branch["head"]["bias"]) for branch in variables["params"].values()}
        if heads != {len(labels)}:
            raise ValueError
        places = {key: DEFAULTS[key] for key in PLACES}
        config = parse_config(nest(places | flatten(about["config"])), str(folder / CONFIG), AGAIN)
        if not _fits(variables, config, len(labels)):
            raise ValueError
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise UserError(f"{folder / CONFIG} does not fit the weights; {AGAIN}") from None
    _check_labels(labels, str(folder / CONFIG))
    calibration = None
    if CALIBRATION in files:
        path = folder / CALIBRATION
        record = parse_json(files[CALIBRATION], path, AGAIN)
        now = digests(variables, variables["params"])
        calibration = calibration_of(record, now, str(path), AGAIN)
    return Model(
        name=text,
        config=config,
        labels=labels,
        image_size=about["image_size"],
        variables=variables,
        calibration=calibration,
        digest=about["digest"],
        lineage=images,
    )


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


def _check_labels(labels: Sequence[str], where: str) -> None:
    """Raise `UserError` for names that cannot be columns of a table, or keys of an answer."""
    for label, count in Counter(labels).items():
        if label and count > 1:
            raise UserError(f"{where}: {count} outputs are named {label!r}; name each differently")
        if not label.isprintable() or label.startswith(("=", "+", "-", "@")):
            raise UserError(
                f"{where}: an output is named {label!r}, which spreadsheets may take for a "
                f"formula; choose a printable name that begins with none of = + - @"
            )


def _downloaded(address: str) -> Path:
    """Download the files of a model on the hub, all of one commit; return their folder."""
    name, revision = hub.parse_address(address)
    fetch = functools.partial(
        hub.fetch,
        name,
        option=address,
        instead="the folder with all its files",
        missing="give a model that python -m agcnn_jax.export wrote",
    )
    sums, commit = fetch(SUMS, revision)
    for file in listed(sums.read_bytes(), f"{address}: {SUMS}"):
        fetch(file, commit)
    return sums.parent
