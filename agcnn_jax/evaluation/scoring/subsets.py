"""The subsets of a data set: what each step left of the images, and who is in each subset."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from agcnn_jax.data.labels import MISSING, parse_age
from agcnn_jax.evaluation.files.label_table import Labels
from agcnn_jax.evaluation.scoring.scored import ScoredImages
from agcnn_jax.metrics.subgroups import UNKNOWN, age_groups
from agcnn_jax.run.run import Run
from agcnn_jax.runtime.storage import exists, read_json

NOT_KNOWN = "missing"
"""The value of a characteristic that is not known."""

NO_LABEL = "finding missing"
"""The characteristic of images whose label of a finding is not known."""

PREPARED = "prepare_report.json"
"""The report that the preparation of a data set leaves beside it."""


class FlowRow(NamedTuple):
    """A step: what it is, the number of images, and of patients where that is known."""

    step: str
    images: int
    patients: int | None = None


def data_flow(run: Run, split: str, known: np.ndarray) -> list[FlowRow]:
    """List the steps of a prepared data set: found, set aside and why, subsets, scored.

    A copy of a data set without the report of its preparation begins with the images in it.

    Args:
        run: of the evaluation.
        split: the scored subset.
        known: which of its N images have a known label that is scored, bool `[N]`.
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
    if subsets.all is None:
        rows += [
            of(f"{name} subset, {subsets.protocol} protocol", indices)
            for name, indices in subsets.subsets.items()
        ]
    if subsets.unlabelled_images:
        rows.append(FlowRow("without a known label, so not trained on", subsets.unlabelled_images))
    if subsets.unlisted_images:
        rows.append(FlowRow("in no list", subsets.unlisted_images))
    scored = getattr(subsets, split)
    rows.append(of("scored", scored))
    if not known.all():
        rows.append(of("scored, but none of their labels is known", scored[~known]))
    return rows


class Cell(NamedTuple):
    """One characteristic of a subset: counts, or the quartiles of a number."""

    images: int | None = None
    patients: int | None = None
    quartiles: tuple[float, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Subset:
    """Images with what is known of their patients.

    Attributes:
        name: such as "train".
        patients: `[N]`, the patient of each image, N at least 1.
        labels: names of the C columns.
        label_matrix: 0, 1 or `MISSING`, `[N, C]`.
        ages: in years, int `[N]`; outside 0 to 120 not known.
        sexes: `[N]`, "" if not known.
        views: `[N]`, "" if not known.
    """

    name: str
    patients: np.ndarray
    labels: Sequence[str]
    label_matrix: np.ndarray
    ages: np.ndarray
    sexes: np.ndarray
    views: np.ndarray


class SubsetCounts(NamedTuple):
    """A subset's name, and its cells by characteristic and value, in the order of Table 1."""

    name: str
    cells: Mapping[tuple[str, str], Cell]


def count_subset(subset: Subset) -> SubsetCounts:
    """Count the images and patients of a subset by age, sex, view and finding."""
    patients = subset.patients

    def count(mask: np.ndarray) -> Cell:
        return Cell(int(mask.sum()), len(np.unique(patients[mask])))

    def quartiles(values: np.ndarray) -> Cell:
        if not len(values):
            return Cell()
        return Cell(quartiles=tuple(np.quantile(values, (0.25, 0.5, 0.75)).tolist()))

    cells = {("all", ""): count(np.ones(len(patients), bool))}
    _, images = np.unique(patients, return_counts=True)
    cells["images a patient, median [quartiles]", ""] = quartiles(images)
    known = age_groups(subset.ages) != UNKNOWN
    cells["age in years, median [quartiles]", ""] = quartiles(subset.ages[known])
    cells["age", NOT_KNOWN] = count(~known)
    for characteristic, column in (("sex", subset.sexes), ("view", subset.views)):
        values = np.where(column == "", UNKNOWN, column)
        for value in np.unique(values[values != UNKNOWN]):
            cells[characteristic, str(value)] = count(values == value)
        cells[characteristic, NOT_KNOWN] = count(values == UNKNOWN)
    for c, label in enumerate(subset.labels):
        cells["finding", label] = count(subset.label_matrix[:, c] == 1)
    for c, label in enumerate(subset.labels):
        if (missing := subset.label_matrix[:, c] == MISSING).any():
            cells[NO_LABEL, label] = count(missing)
    return SubsetCounts(subset.name, cells)


def subsets_of(run: Run) -> list[Subset]:
    """Describe the subsets of a prepared data set that have images."""
    records = run.records
    subsets = []
    for name, indices in run.split.subsets.items():
        if len(indices):
            about = (records.ages, records.sexes, records.views)
            subsets.append(
                Subset(
                    name,
                    records.patient_ids[indices],
                    records.labels,
                    records.label_matrix[indices],
                    *(np.asarray(column)[indices] for column in about),
                )
            )
    return subsets


def subset_of_table(scored: ScoredImages, labels: Labels) -> Subset:
    """Describe the scored images as far as the table of their labels knows them."""
    columns = {
        name: [labels.about.get(name, {}).get(image, "") for image in scored.image_ids]
        for name in ("age", "sex", "view")
    }
    ages = [parse_age(text) if text else None for text in columns["age"]]
    return Subset(
        "scored",
        np.asarray(scored.patient_ids),
        scored.labels,
        scored.label_matrix,
        np.array([-1 if age is None else age for age in ages]),
        *(np.array(columns[name]) for name in ("sex", "view")),
    )
