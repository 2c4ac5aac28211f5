"""Evaluation of converted weights: anyone's network, without training it here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import ml_collections

from agcnn_jax.data.splits import WHOLE, whole
from agcnn_jax.data.text import plain
from agcnn_jax.evaluation.asked_config import read_keys, weights_config
from agcnn_jax.evaluation.evaluate import (
    Subject,
    check_subset,
    open_agreed,
    open_evaluation,
    score,
)
from agcnn_jax.evaluation.scoring.matches import NAME, match_findings, match_notes, scored_pairs
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
    maps: Sequence[str] = (),
) -> str:
    """Score converted weights on a subset of a prepared data set and write the results to `out`.

    The weights' outputs are matched with the data's labels, see `match_findings`. A single network
    is the global branch; the three files of an AG-CNN are all branches.

    Args:
        config: says which data to score and how to predict; the backbone, the number of channels,
            the normalisation and the pooling are those of the weights.
        directory: of the weights, which data_prep/torch_weights.py wrote.
        overrides: the config's keys that were given on the command line, with their values.
        out: the folder to write; must be missing or empty.
        split: `train`, `validation`, `test`, or `all`, which needs no split.
        include_trained: allow images that the weights were trained on in subsets other than
            `train`.
        maps: pairs of an output and a label to score.

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
        trained, labels = weights.lineage(directory), run.records.labels
        if about["classes"] is None:
            raise UserError(
                f"{name}: weights.json does not name the outputs; convert the weights again with "
                f"data_prep/torch_weights.py --classes NAME,NAME,..., one name for each output"
            )
        spelling = {plain(label): label for label in labels}
        outputs = [spelling.get(plain(output), output) for output in about["classes"]]
        known = {*trained.seen, *trained.unlisted}
        one_set = run.records.collection in known
        matches = match_findings(outputs, labels, maps, name=name, one_set=one_set)
        return Subject(
            variables=weights.load_weights(directory),
            matches=matches,
            listed=not one_set or any(match.relation != NAME for match in scored_pairs(matches)),
            trained=trained,
            name=name,
            settings={**read_keys(of_weights), "weights": _facts(about)},
            directory=folder,
            notes=(_origin(about), *match_notes(matches, labels)),
        )

    run, subject = open_agreed(
        lambda: open_evaluation(of_weights, folder, whole if split == WHOLE else None),
        load,
        {"--split": split, "--map": list(maps)},
    )
    return score(run, subject, split, include_trained)


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
