"""Images of an evaluation that the model was trained on."""

from __future__ import annotations

import numpy as np

from agcnn_jax.run.lineage import Lineage, Overlap
from agcnn_jax.run.run import Run
from agcnn_jax.runtime.errors import UserError


def check_overlap(
    run: Run,
    seen: Lineage,
    name: str,
    split: str,
    indices: np.ndarray,
    include_trained: bool,
) -> Overlap:
    """Count the images and patients of a subset that the model was trained on.

    Args:
        run: of the evaluation, whose data and split may differ from a run's.
        seen: what the model was trained on.
        name: the option that names the model.
        split: name of the subset.
        indices: records of the subset, int64 `[N]`.
        include_trained: allow images that the model was trained on in subsets other than `train`.

    Raises:
        UserError: if the model was trained on some of them, the subset is not `train`, and
            `include_trained` is False.
    """
    records = run.records
    overlap = seen.overlap(
        records.collection, records.image_ids[indices], records.patient_ids[indices]
    )
    if overlap.images and split != "train" and not include_trained:
        raise UserError(
            f"{name} was trained on {overlap.images} of the {len(indices)} images of this {split} "
            f"subset (protocol {run.split.protocol}); score other images, such as those of "
            f"the test subset of its own split, or pass --include_trained to score these"
        )
    return overlap
