"""Loading a model from any place that can hold one."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

from etils import epath

from agcnn_jax.config.keys import DEFAULTS, flatten, nest
from agcnn_jax.config.saved import parse_config
from agcnn_jax.inference.model import Model
from agcnn_jax.inference.model_files import (
    AGAIN,
    CALIBRATION,
    CONFIG,
    LINEAGE,
    PLACES,
    SUMS,
    WEIGHTS,
    check_labels,
    listed,
    misfit,
    read_exported_config,
    read_folder,
)
from agcnn_jax.interop import DESCRIPTION, hub
from agcnn_jax.run.calibration import calibration_of
from agcnn_jax.run.lineage import Lineage
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.forks import check_not_forked
from agcnn_jax.runtime.paths import expanded_path
from agcnn_jax.runtime.storage import absolute, exists, is_remote, parse_json


def load(source: str | os.PathLike[str]) -> Model:
    """Load a model from a run, converted weights, or an exported model.

    Raises:
        UserError: if there is none, or a damaged one; if JAX finds no device; or in a process that
            was forked after another model was loaded.
    """
    check_not_forked()
    if os.fspath(source).startswith(hub.SCHEME):
        return load_exported(source)
    folder = absolute(source)
    if exists(folder / WEIGHTS) or exists(folder / SUMS):
        return load_exported(source)
    for file in (DESCRIPTION, CONFIG):
        if exists(folder / file):
            from agcnn_jax.inference.load_jax import load_converted, load_run
            from agcnn_jax.runtime.devices import check_devices

            check_devices()
            return (load_converted if file == DESCRIPTION else load_run)(source)
    raise UserError(
        f"{os.fspath(source)} holds no model; give a run's workdir, a folder of converted weights, "
        f"or a folder that python -m agcnn_jax.export wrote"
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
    try:
        images = Lineage.from_json(parse_json(files[LINEAGE], folder / LINEAGE, AGAIN))
        places = {key: DEFAULTS[key] for key in PLACES}
        config = parse_config(nest(places | flatten(about["config"])), str(folder / CONFIG), AGAIN)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise misfit(folder) from None
    labels = tuple(about["labels"])
    check_labels(labels, str(folder / CONFIG))
    facts: dict[str, Any] = {
        "name": text,
        "config": config,
        "labels": labels,
        "image_size": about["image_size"],
        "digest": about["digest"],
        "lineage": images,
    }
    from agcnn_jax.inference.jax_model import JaxModel
    from agcnn_jax.inference.load_jax import read_weights
    from agcnn_jax.run.stage_results import digests
    from agcnn_jax.runtime.devices import check_devices

    check_devices()
    variables = read_weights(files[WEIGHTS], folder, about["digest"], config, len(labels))
    calibration = None
    if CALIBRATION in files:
        path = folder / CALIBRATION
        record = parse_json(files[CALIBRATION], path, AGAIN)
        now = digests(variables, variables["params"])
        calibration = calibration_of(record, now, str(path), AGAIN)
    return JaxModel(**facts, variables=variables, calibration=calibration)


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
