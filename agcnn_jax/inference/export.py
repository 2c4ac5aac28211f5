"""Export of a run's model to a folder, in one of several formats."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import agcnn_jax
from agcnn_jax.config import kinds
from agcnn_jax.config.keys import flatten, nest
from agcnn_jax.config.kinds import check_entries
from agcnn_jax.config.saved import read_data
from agcnn_jax.inference.card import NOT_STATED, model_card
from agcnn_jax.inference.formats import FORMATS, model_files
from agcnn_jax.inference.jax_model import JaxModel
from agcnn_jax.inference.load_jax import load_run
from agcnn_jax.inference.model import Model
from agcnn_jax.inference.model_files import (
    CALIBRATION,
    CARD,
    CONFIG,
    FORMAT,
    LINEAGE,
    PLACES,
    PROGRAM,
    write_folder,
)
from agcnn_jax.inference.precision import measure_precision
from agcnn_jax.run.lineage import own_collections
from agcnn_jax.run.stage_results import digests
from agcnn_jax.runtime.errors import UserError, say
from agcnn_jax.runtime.storage import check_new, checkpoint_place, exists, read_json, reported

_INTERVAL = kinds.Limits("two in 0..1", lambda x: len(x) == 2 and 0 <= x[0] <= x[1] <= 1)
_SCORE_AGAIN = "delete it and run eval.py again"


def export_model(
    workdir: str | os.PathLike[str],
    out: Path,
    licence: str = NOT_STATED,
    form: str = FORMATS[0],
) -> JaxModel:
    """Write a run's model to a new folder, and return it.

    Args:
        workdir: of the run.
        out: the folder.
        licence: of the weights, for the card; see `model_card`.
        form: of `FORMATS`.

    Raises:
        UserError: if nothing is trained; if `out` holds files or cannot be written; for a float64
            run in a format that has no float64.
    """
    check_new(out)
    directory = checkpoint_place(workdir)
    model = load_run(workdir)
    folder = directory / "eval" / "test"
    scores: dict[str, Any] = {}
    table = ""
    if exists(folder / "auc.json"):
        scores = read_json(folder / "auc.json", _SCORE_AGAIN)
        _check_scores(scores, os.fspath(folder / "auc.json"))
        if scores.get("weights") == digests(model.variables, model.branches):
            with reported(folder / "auc.md", "read"):
                table = (folder / "auc.md").read_text()
        else:
            scores = {}  # a stage has been trained again since
    files = {
        **model_files(model, form),
        CONFIG: (json.dumps(exported_config(model), indent=2) + "\n").encode(),
        LINEAGE: (json.dumps(model.lineage.to_json()) + "\n").encode(),
    }
    if model.calibration is not None:
        with reported(directory / CALIBRATION, "read"):
            files[CALIBRATION] = (directory / CALIBRATION).read_bytes()
    precision = None
    if form == "onnx":
        try:
            precision = measure_precision(model, files[PROGRAM], directory)
        except UserError as error:
            say(f"the card will not say what bfloat16 changes: {error}")
    collection, *others = own_collections(directory)
    card = model_card(
        *(model, form, files, directory.name, read_data(directory), scores, table, licence),
        *(None if others else collection, precision),
    )
    write_folder(out, {**files, CARD: card.encode()})
    return model


def _check_scores(scores: Mapping[str, Any], path: str) -> None:
    """Raise `UserError` unless `auc.json` has the numbers that the card shows."""
    count = (kinds.WHOLE, kinds.at_least(0))
    known = [name for name in ("trained_images", "shared_patients") if scores.get(name) is not None]
    objects = ("branches", "positives", "positive_patients")
    check_entries(scores, dict.fromkeys(objects, (kinds.OBJECT, kinds.ANY)), path, _SCORE_AGAIN)
    check_entries(scores, dict.fromkeys(["patients", *known], count), path, _SCORE_AGAIN)
    for name in ("positives", "positive_patients"):
        counts = dict.fromkeys(scores[name], count)
        check_entries(scores[name], counts, f"{path}, {name}", _SCORE_AGAIN)
    auc = (kinds.or_none(kinds.NUMBER), kinds.between(0, 1))
    interval = (kinds.or_none(kinds.LIST_OF_NUMBERS), _INTERVAL)
    for branch, values in scores["branches"].items():
        where = f"{path}, {branch}"
        check_entries(values, {"mean": auc, "mean_interval": interval}, where, _SCORE_AGAIN)


def exported_config(model: Model) -> dict[str, Any]:
    """Return what `config.json` says of a model, without places on this machine."""
    config = {key: x for key, x in flatten(model.config).items() if key not in PLACES}
    return {
        "format": FORMAT,
        "model_type": "agcnn",
        "library_name": "agcnn-jax",
        "version": agcnn_jax.__version__,
        "digest": model.digest,
        "labels": list(model.labels),
        "branches": list(model.branches),
        "image_size": model.image_size,
        "config": nest(config),
    }
