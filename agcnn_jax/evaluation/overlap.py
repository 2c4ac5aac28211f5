"""Images of an evaluation that the run was trained on."""

from __future__ import annotations

import numpy as np

from agcnn_jax.run import lineage
from agcnn_jax.run.experiment import Experiment
from agcnn_jax.run.lineage import Overlap
from agcnn_jax.runtime.errors import UserError


def trained_overlap(
    experiment: Experiment, split: str, indices: np.ndarray, include_trained: bool
) -> Overlap:
    """Count the images and patients of a subset that the run was trained on.

    Args:
        experiment: of the evaluation, whose data and split may differ from the run's.
        split: name of the subset.
        indices: records of the subset, int64 `[N]`.
        include_trained: allow images that the run was trained on in subsets other than `train`.

    Raises:
        UserError: if the run was trained on some of them, the subset is not `train`, and
            `include_trained` is False.
    """
    records = experiment.records
    seen, _ = lineage.read(experiment.workdir)
    overlap = seen.overlap(
        records.collection, records.image_ids[indices], records.patient_ids[indices]
    )
    if overlap.images and split != "train" and not include_trained:
        raise UserError(
            f"--workdir {experiment.workdir} was trained on {overlap.images} of the {len(indices)} "
            f"images of this {split} subset (protocol {experiment.split.protocol}); score other "
            f"images, such as those of the run's own split, or pass --include_trained to score "
            f"these"
        )
    return overlap
