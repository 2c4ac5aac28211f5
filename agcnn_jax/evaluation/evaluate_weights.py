"""Evaluation of converted weights: anyone's network, without training it here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import ml_collections

from agcnn_jax.data.text import plain
from agcnn_jax.evaluation.asked_config import read_keys, weights_config
from agcnn_jax.evaluation.evaluate import (
    Subject,
    check_subset,
    open_agreed,
    open_evaluation,
    score,
)
from agcnn_jax.evaluation.scoring.scored import match_outputs
from agcnn_jax.interop import weights
from agcnn_jax.run.run import Run
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.processes import from_primary, sync_call
from agcnn_jax.runtime.storage import absolute, check_new


def evaluate_weights(
    config: ml_collections.ConfigDict,
    directory: str | os.PathLike[str],
    overrides: dict[str, Any],
    out: str | os.PathLike[str],
    split: str = "test",
    include_trained: bool = False,
) -> str:
    """Score converted weights on a subset of a prepared data set and write the results to `out`.

    The weights' outputs are matched with the data's labels by name. A single network is the global
    branch; the three files of an AG-CNN are all branches.

    Args:
        config: says which data to score and how to predict; the backbone, the number of channels,
            the normalisation and the pooling are those of the weights.
        directory: of the weights, which data_prep/torch_weights.py wrote.
        overrides: the config's keys that were given on the command line, with their values.
        out: the folder to write; must be missing or empty.
        split: `train`, `validation` or `test`.
        include_trained: allow images that the weights were trained on in subsets other than
            `train`.

    Returns:
        The AUC table as text; empty in all processes but the primary, which writes the results.

    Raises:
        UserError: if the folder holds no converted weights, `out` holds files, no output is named
            as a label of the data, an override does not fit, or the weights are known to have been
            trained on images of the subset.
    """
    check_subset(split)
    name = f"--weights {os.fspath(directory)}"
    folder = absolute(out)
    from_primary(lambda: check_new(folder))
    about = sync_call(lambda: _describe(directory, name))
    of_weights = weights_config(config, about, name, overrides)

    def load(run: Run) -> Subject:
        notes = match_notes(about["classes"], run.records.labels, name)
        return Subject(
            variables=weights.load_weights(directory),
            outputs=tuple(about["classes"]),
            trained=weights.lineage(directory),
            name=name,
            settings={**read_keys(of_weights), "weights": _facts(about)},
            directory=folder,
            notes=(_origin(about), *notes),
        )

    run, subject = open_agreed(lambda: open_evaluation(of_weights, folder), load, split)
    return score(run, subject, split, include_trained)


def match_notes(outputs: Sequence[str] | None, labels: Sequence[str], name: str) -> tuple[str, ...]:
    """Name the labels without an output and the outputs without a label, in a line each.

    Args:
        outputs: the names of the weights' outputs, "" for one that was not trained; None if they
            have none.
        labels: of the data.
        name: the option that names the weights, for messages.

    Raises:
        UserError: if the outputs have no names, or none is a label's.
    """
    if outputs is None:
        raise UserError(
            f"{name}: weights.json does not name the outputs; convert the weights again with "
            f"data_prep/torch_weights.py --classes NAME,NAME,..., one name for each output"
        )
    matched = match_outputs(outputs, labels)
    if not matched:
        raise UserError(
            f"{name}: none of the outputs, {', '.join(outputs)}, is a label of the data: "
            f"{', '.join(labels)}; give weights that predict one of these"
        )
    known = {plain(label) for label in labels}
    unmatched = {
        "Labels without an output": [label for label in labels if label not in matched],
        "Outputs without a label": [out for out in outputs if out and plain(out) not in known],
    }
    return tuple(f"{what}: {', '.join(names)}." for what, names in unmatched.items() if names)


def _describe(directory: str | os.PathLike[str], name: str) -> dict[str, Any]:
    if not weights.is_weights(directory):
        raise UserError(
            f"{name}: no folder with a weights.json; convert weights with python "
            f"data_prep/torch_weights.py --weights FILE --backbone BACKBONE --out DIR (a run is "
            f"scored with --workdir)"
        )
    return weights.describe(directory)


def _origin(about: dict[str, Any]) -> str:
    return (
        f"Weights: {about['kind']}, from {about['source']} (digest {about['digest']}); trained on: "
        f"{about['trained_on']}."
    )


def _facts(about: dict[str, Any]) -> dict[str, Any]:
    return {
        **{key: about[key] for key in ("kind", "source", "digest", "trained_on")},
        "files": ", ".join(f"{file['name']} (sha256 {file['sha256']})" for file in about["files"]),
    }
