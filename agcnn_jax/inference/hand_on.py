"""Writes the folder with which a run's model is handed on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import agcnn_jax
from agcnn_jax.config import kinds
from agcnn_jax.config.kinds import check_entries
from agcnn_jax.config.saved import read_data
from agcnn_jax.inference.card import NOT_STATED, Evaluation, model_card
from agcnn_jax.inference.load import load_run
from agcnn_jax.inference.model import Model
from agcnn_jax.inference.model_files import (
    CALIBRATION,
    CARD,
    CONFIG,
    FORMAT,
    LINEAGE,
    WEIGHTS,
    require_new,
    to_safetensors,
    write_folder,
)
from agcnn_jax.run.stage_results import digests
from agcnn_jax.runtime.storage import checkpoint_place, exists, read_json, reported

_PLACES = {"": ("workdir", "init"), "data": ("dir", "lists")}
"""Keys of each section that name folders of the machine that trained."""

_INTERVAL = kinds.Limits("two in 0..1", lambda x: len(x) == 2 and 0 <= x[0] <= x[1] <= 1)
_SCORE_AGAIN = "delete it and run eval.py again"


def hand_on(workdir: str | os.PathLike[str], out: Path, licence: str = NOT_STATED) -> Model:
    """Write a run's model to a new folder, as `agcnn_jax.load` and the Hugging Face hub take it.

    Args:
        workdir: of the run.
        out: the folder; must be missing or empty.
        licence: of the weights, for the card; see `model_card`.

    Returns:
        The run's model.

    Raises:
        UserError: if nothing is trained, or `out` holds files or cannot be written.
    """
    require_new(out)
    directory = checkpoint_place(workdir)
    model = load_run(workdir)
    now = digests(model.variables, model.branches)
    folder = directory / "eval" / "test"
    evaluation = None
    if exists(folder / "auc.json"):
        scores = read_json(folder / "auc.json", _SCORE_AGAIN)
        _check_scores(scores, os.fspath(folder / "auc.json"))
        # A stage may have been trained again since.
        if scores.get("weights") == now:
            with reported(folder / "auc.md", "read"):
                evaluation = Evaluation(scores, (folder / "auc.md").read_text())
    data = read_data(directory)
    card = model_card(model, directory.name, data, evaluation, licence)
    files = {
        WEIGHTS: to_safetensors(model.variables),
        CONFIG: (json.dumps(about(model), indent=2) + "\n").encode(),
        LINEAGE: (json.dumps(model.lineage.to_json()) + "\n").encode(),
        CARD: card.encode(),
    }
    if model.calibration is not None:
        with reported(directory / CALIBRATION, "read"):
            files[CALIBRATION] = (directory / CALIBRATION).read_bytes()
    write_folder(out, files)
    return model


def _check_scores(scores: Mapping[str, Any], path: str) -> None:
    """Raise `UserError` unless `auc.json` has the numbers that the card shows."""
    check_entries(scores, {"branches": (kinds.OBJECT, kinds.ANY)}, path, _SCORE_AGAIN)
    count = (kinds.WHOLE, kinds.at_least(0))
    counts = ("patients", "trained_images", "shared_patients")
    known = {name: count for name in counts if scores.get(name) is not None}
    check_entries(scores, known, path, _SCORE_AGAIN)
    for name in ("positives", "positive_patients"):
        counted = scores.get(name, {})
        check_entries({name: counted}, {name: (kinds.OBJECT, kinds.ANY)}, path, _SCORE_AGAIN)
        check_entries(counted, dict.fromkeys(counted, count), f"{path}, {name}", _SCORE_AGAIN)
    auc, interval = (kinds.NUMBER, kinds.between(0, 1)), (kinds.LIST_OF_NUMBERS, _INTERVAL)
    for branch, found in scores["branches"].items():
        where = f"{path}, {branch}"
        anything = dict.fromkeys(("mean", "mean_interval"), (kinds.ANYTHING, kinds.ANY))
        check_entries(found, anything, where, _SCORE_AGAIN)
        given = {"mean": auc, "mean_interval": interval}
        given = {name: kind for name, kind in given.items() if found[name] is not None}
        check_entries(found, given, where, _SCORE_AGAIN)


def about(model: Model) -> dict[str, Any]:
    """Return what `config.json` says of a model, without places on this machine."""
    config: dict[str, Any] = {
        key: value for key, value in model.config.items() if key not in _PLACES[""]
    }
    config["data"] = {k: v for k, v in config["data"].items() if k not in _PLACES["data"]}
    return {
        "format": FORMAT,
        "model_type": "agcnn",
        "library_name": "agcnn-jax",
        "version": agcnn_jax.__version__,
        "digest": model.digest,
        "labels": list(model.labels),
        "branches": list(model.branches),
        "image_size": model.image_size,
        "config": config,
    }
