"""What OpenVINO's bfloat16 changes in a run's answers, measured when the run is exported."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from etils import epath
from ml_collections import ConfigDict
from scipy.special import expit

from agcnn_jax.config.saved import check_data
from agcnn_jax.data.pipeline import read_batch
from agcnn_jax.data.records import open_records
from agcnn_jax.inference import PRECISIONS
from agcnn_jax.inference.jax_model import JaxModel
from agcnn_jax.inference.model import Model
from agcnn_jax.inference.model_files import PROGRAM
from agcnn_jax.inference.onnx_engines import choose_engine
from agcnn_jax.inference.onnx_model import OnnxModel
from agcnn_jax.metrics.auc_table import Mean, auc_table
from agcnn_jax.run.run import split_of
from agcnn_jax.runtime.progress import Progress

MOST = 1000
"""Test images that are predicted, at most: ResNet-50 takes two cores two minutes in each
precision."""

BATCH = 16


class BranchChange(NamedTuple):
    """A branch's answers in both precisions.

    Attributes:
        largest: difference of two probabilities.
        float32: its mean AUC.
        bfloat16: the same.
    """

    largest: float
    float32: Mean
    bfloat16: Mean


class PrecisionChange(NamedTuple):
    """What bfloat16 changes.

    Attributes:
        images: that were predicted, of `test` in the run's test subset.
        test: images of that subset.
        boxes: how many boxes differ; None where no local branch reads crops.
        branches: by their names.
    """

    images: int
    test: int
    boxes: int | None
    branches: dict[str, BranchChange]


def measure_precision(model: JaxModel, program: bytes, workdir: epath.Path) -> PrecisionChange:
    """Predict a run's test images, `MOST` of them at most, with OpenVINO in both precisions.

    Args:
        model: the run's.
        program: its ONNX file.
        workdir: of the run.

    Raises:
        UserError: OpenVINO is not installed, or this processor has no bfloat16; the run's data are
            not there, or have changed.
    """
    engine = choose_engine(None, "bfloat16")
    facts = {field.name: getattr(model, field.name) for field in dataclasses.fields(Model)}
    both = [
        OnnxModel(
            **facts,
            heads=model.branches,
            program=program,
            path=PROGRAM,
            engine=engine,
            precision=precision,
        )
        for precision in PRECISIONS
    ]
    for one in reversed(both):  # the precision that a processor may lack first
        one.check()
    data = ConfigDict(model.config).data
    records = open_records(data.dir)
    check_data(workdir, records.fingerprint, data.dir)
    test = split_of(data, records).test
    chosen = test[np.unique(np.linspace(0, len(test) - 1, min(MOST, len(test))).astype(int))]
    source = records.images_and_labels()
    images = [read_batch(source, part)["image"] for part in _parts(chosen)]
    with Progress("float32 and bfloat16", 2 * len(chosen), "images", keep=False) as bar:
        outputs = [_predict(one, images, bar) for one in both]
    named = [c for c, label in enumerate(model.labels) if label]
    scores = {
        (precision, branch): made[branch][:, named]
        for precision, made in zip(PRECISIONS, outputs, strict=True)
        for branch in model.branches
    }
    tables = auc_table(
        records.label_matrix[chosen][:, named],
        {" ".join(key): values for key, values in scores.items()},
        labels=[model.labels[c] for c in named],
        findings=model.findings,
        patient_ids=records.patient_ids[chosen],
    )
    changes = {
        branch: BranchChange(
            float(np.abs(np.subtract(*(expit(scores[p, branch]) for p in PRECISIONS))).max()),
            *(tables[f"{precision} {branch}"].mean for precision in PRECISIONS),
        )
        for branch in model.branches
    }
    first, second = outputs
    moved = None
    if "boxes" in first:
        moved = int((first["boxes"] != second["boxes"]).any(axis=1).sum())
    return PrecisionChange(len(chosen), len(test), moved, changes)


def _parts(indices: np.ndarray) -> list[np.ndarray]:
    return [indices[i : i + BATCH] for i in range(0, len(indices), BATCH)]


def _predict(
    model: OnnxModel, images: Sequence[np.ndarray], bar: Progress
) -> dict[str, np.ndarray]:
    made = []
    for part in images:
        made.append(model.predict_batch(part))
        bar.update(len(part))
    return {name: np.concatenate([one[name] for one in made]) for name in made[0]}
