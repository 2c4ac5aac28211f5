"""The images that an evaluation scores, beside those that its run knows."""

from __future__ import annotations

import numpy as np
from etils import epath

from agcnn_jax.run import lineage, saved_config
from agcnn_jax.run.experiment import Experiment
from agcnn_jax.run.lineage import Overlap
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.storage import exists, read_json

SCORES = "auc.json"
"""The file of an evaluation that says the others are all there."""


def trained_overlap(
    experiment: Experiment, split: str, indices: np.ndarray, include_trained: bool
) -> Overlap:
    """Count which of some images a run was trained on, whatever split it is scored on now.

    Args:
        experiment: of the evaluation, which may have other data and another split than the run.
        split: the subset that is scored.
        indices: its records, int64 `[N]`.
        include_trained: score images that were trained on.

    Raises:
        UserError: if some were trained on and the subset is not `train`, unless
            `include_trained`.
    """
    records = experiment.records
    seen, _ = lineage.kept(experiment.workdir)
    overlap = seen.overlap(
        records.collection, records.image_ids[indices], records.patient_ids[indices]
    )
    if overlap.images and split != "train" and not include_trained:
        raise UserError(
            f"--workdir {experiment.workdir} was trained on {overlap.images} of the {len(indices)} "
            f"images of this {split} subset (protocol {experiment.split.protocol}); score others, "
            f"such as those of the run's own split, or these on purpose with --include_trained"
        )
    return overlap


def results_directory(experiment: Experiment, split: str) -> epath.Path:
    """Name the folder of an evaluation's results, in which no other images were scored.

    `eval/<split>` is for the split that the run was trained with. Another goes to
    `eval/<split>_<protocol>`, with the first 8 digits of the store's fingerprint if that is another
    too. Where that holds the results of still other images, as with two lists or seeds of one
    protocol, the first 8 digits of these images' digest follow.
    """
    workdir, data = experiment.workdir, experiment.data_summary
    trained = read_json(workdir / "data.json")
    if saved_config.same(data, trained):
        return workdir / "eval" / split
    name = f"{split}_{experiment.split.protocol}"
    if data["fingerprint"] != trained.get("fingerprint"):
        name += f"_{data['fingerprint'][:8]}"
    scores, ours = workdir / "eval" / name / SCORES, experiment.split.digests[split]
    if exists(scores) and read_json(scores, "delete it").get("images_digest") != ours:
        name += f"_{ours[:8]}"
    return workdir / "eval" / name
