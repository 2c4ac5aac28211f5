"""How many images there were at each step, from the files that were found to those scored."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from etils import epath

from agcnn_jax.run.run import Run
from agcnn_jax.runtime.storage import exists, read_json

PREPARED = "prepare_report.json"
"""What data_prep/chestxray14.py writes beside the data set."""


class FlowRow(NamedTuple):
    """A step: what it is, the number of images, and of patients where that is known."""

    step: str
    images: int
    patients: int | None = None


def data_flow(run: Run, split: str) -> list[FlowRow]:
    """List the steps of a prepared data set: found, set aside and why, subsets, scored.

    A copy of a data set without the report of its preparation begins with the images in it.
    """
    records, subsets = run.records, run.split
    # The data set itself is two folders deeper.
    path = epath.Path(records.directory).parents[1] / PREPARED
    rows = []
    if exists(path):
        prepared = read_json(path, "prepare the data again")
        rows.append(FlowRow("files found", int(prepared["files_seen"])))
        rows += [
            FlowRow(f"set aside: {reason}", int(count))
            for reason, count in prepared["set_aside_counts"].items()
            if count
        ]

    def of(step: str, indices: np.ndarray) -> FlowRow:
        return FlowRow(step, len(indices), len(np.unique(records.patient_ids[indices])))

    rows.append(of("in the data set", np.arange(len(records))))
    rows += [
        of(f"{name} subset, {subsets.protocol} protocol", getattr(subsets, name))
        for name in ("train", "validation", "test")
    ]
    if subsets.unlisted_images:
        rows.append(FlowRow("in no list", subsets.unlisted_images))
    return [*rows, of("scored", getattr(subsets, split))]
