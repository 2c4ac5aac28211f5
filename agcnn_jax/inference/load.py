"""Loading a model from any place that can hold one."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etils import epath

from agcnn_jax.config.keys import DEFAULTS, flatten, nest
from agcnn_jax.config.kinds import LIST_OF_TEXTS, Limits, check_entries
from agcnn_jax.config.saved import parse_config
from agcnn_jax.inference import PRECISIONS
from agcnn_jax.inference.model import Model
from agcnn_jax.inference.model_files import (
    AGAIN,
    CALIBRATION,
    CONFIG,
    LINEAGE,
    PLACES,
    PROGRAM,
    SUMS,
    WEIGHTS,
    check_labels,
    listed,
    misfit,
    read_exported_config,
    read_folder,
)
from agcnn_jax.inference.onnx_engines import choose_engine
from agcnn_jax.inference.onnx_model import OnnxModel
from agcnn_jax.interop import DESCRIPTION, hub
from agcnn_jax.models import BRANCHES
from agcnn_jax.run.calibration import calibration_of
from agcnn_jax.run.lineage import Lineage
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.forks import check_not_forked
from agcnn_jax.runtime.paths import expanded_path
from agcnn_jax.runtime.storage import absolute, exists, is_remote, parse_json

_FIRST = Limits(f"the first of {', '.join(BRANCHES)}", lambda x: x and x == BRANCHES[: len(x)])
_HEADS = {"branches": (LIST_OF_TEXTS, _FIRST)}
"""What `config.json` must say beside an ONNX file."""


def load(
    source: str | os.PathLike[str], engine: str | None = None, precision: str | None = None
) -> Model:
    """Load a model from a run, converted weights, or an exported model.

    Args:
        source: see `agcnn_jax.load`.
        engine: of an ONNX file, of `onnx_engines.ENGINES`; by default the first that is installed.
        precision: of an ONNX file, of `onnx_engines.PRECISIONS`; float32 by default.

    Raises:
        UserError: if there is none, or a damaged one; if JAX finds no device; or in a process that
            was forked after another model was loaded.
    """
    check_not_forked()
    if os.fspath(source).startswith(hub.SCHEME):
        return load_exported(source, engine, precision)
    folder = absolute(source)
    if any(exists(folder / file) for file in (WEIGHTS, PROGRAM, SUMS)):
        return load_exported(source, engine, precision)
    for file in (DESCRIPTION, CONFIG):
        if exists(folder / file):
            _refuse(engine, precision, os.fspath(source))
            from agcnn_jax.inference.load_jax import load_converted, load_run
            from agcnn_jax.runtime.devices import check_devices

            check_devices()
            return (load_converted if file == DESCRIPTION else load_run)(source)
    raise UserError(
        f"{os.fspath(source)} holds no model; give a run's workdir, a folder of converted weights, "
        f"or a folder that python -m agcnn_jax.export wrote"
    )


def load_exported(
    source: str | os.PathLike[str], engine: str | None = None, precision: str | None = None
) -> Model:
    """Load a model that `python -m agcnn_jax.export` wrote.

    The source is its folder, on a disk or in a bucket; or `hf://OWNER/NAME` or
    `hf://OWNER/NAME@REVISION` for one on the Hugging Face hub, which is downloaded to the hub's
    cache. A folder with `model.onnx` is computed by `engine` in `precision`, see `load`, and needs
    no JAX.

    Raises:
        UserError: if the folder is missing, incomplete or changed, or cannot be downloaded; if no
            engine is installed, or none computes in this precision.
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
    path = folder / CALIBRATION
    record = parse_json(files[CALIBRATION], path, AGAIN) if CALIBRATION in files else None
    if PROGRAM in files:
        return _onnx_model(facts, files[PROGRAM], folder, about, record, engine, precision)
    _refuse(engine, precision, text)
    from agcnn_jax.inference.jax_model import JaxModel
    from agcnn_jax.inference.load_jax import read_weights
    from agcnn_jax.run.stage_results import digests
    from agcnn_jax.runtime.devices import check_devices

    check_devices()
    variables = read_weights(files[WEIGHTS], folder, about["digest"], config, len(labels))
    now = digests(variables, variables["params"])
    calibration = None if record is None else calibration_of(record, now, str(path), AGAIN)
    return JaxModel(**facts, variables=variables, calibration=calibration)


def _onnx_model(
    facts: Mapping[str, Any],
    program: bytes,
    folder: Path | epath.Path,
    about: Mapping[str, Any],
    record: Mapping[str, Any] | None,
    engine: str | None,
    precision: str | None,
) -> Model:
    """Make the model of an ONNX file, which is checked.

    Args:
        facts: the attributes that every exported model has.
        program: content of the file.
        folder: where it is.
        about: content of `config.json`.
        record: content of `calibration.json`, which `SHA256SUMS` ties to the file: the digests of
            the weights in it cannot be computed from one.
        engine: see `load`.
        precision: see `load`.
    """
    heads = tuple(check_entries(about, _HEADS, str(folder / CONFIG), AGAIN)["branches"])
    calibration = None
    if record is not None:
        weights, path = record.get("weights"), folder / CALIBRATION
        if not isinstance(weights, dict) or set(weights) != set(heads):
            raise UserError(f"{path} is not of the branches in {CONFIG}; {AGAIN}")
        calibration = calibration_of(record, weights, str(path), AGAIN)
    precision = precision or PRECISIONS[0]
    model = OnnxModel(
        **facts,
        calibration=calibration,
        heads=heads,
        program=program,
        path=str(folder / PROGRAM),
        engine=choose_engine(engine, precision),
        precision=precision,
    )
    model.check()
    return model


def _refuse(engine: str | None, precision: str | None, source: str) -> None:
    """Raise `UserError` for options of ONNX files with a model that JAX computes."""
    for name, value in (("engine", engine), ("precision", precision)):
        if value is not None:
            raise UserError(
                f"--{name} {value} is for models in an ONNX file, and JAX computes {source}; leave "
                f"it out"
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
