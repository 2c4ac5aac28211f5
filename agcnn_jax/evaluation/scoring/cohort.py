"""The scored images described: who they are, where they come from, what the model knew of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from agcnn_jax.data.collection import part_of
from agcnn_jax.data.labels import MISSING, parse_age
from agcnn_jax.data.splits import WHOLE
from agcnn_jax.evaluation.files.label_table import Labels
from agcnn_jax.evaluation.scoring.references import Setting
from agcnn_jax.evaluation.scoring.scored import ScoredImages
from agcnn_jax.metrics.subgroups import UNKNOWN, age_groups
from agcnn_jax.run.lineage import ANY_COLLECTION, Lineage, Overlap
from agcnn_jax.run.run import Run
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.storage import exists, read_json

SYNTHETIC = "SYNTHETIC IMAGES"
SYNTHETIC_NOTE = f"{SYNTHETIC}: these numbers say nothing about patients."

NOT_KNOWN = "missing"
"""The value of a characteristic that is not known."""

NO_LABEL = "finding missing"
"""The characteristic of images whose label of a finding is not known."""

MISSING_NOTE = (
    "Each finding is measured on the images whose label for it is known. A report does not mention "
    "every finding, and the labels that it mentions are no random sample of films: AUCs, "
    "prevalence and predictive values may differ on all films."
)

PREPARED = "prepare_report.json"
"""The report that the preparation of a data set leaves beside it."""


@dataclasses.dataclass(frozen=True)
class Cohort:
    """The scored images, and what a reader must know about them.

    Attributes:
        split: the subset, such as "test"; None for predictions whose split is not known.
        protocol: the split protocol; None for predictions whose split is not known.
        backbone: as in the config, such as "densenet121"; None when not known.
        setting: how the run was trained, to find the paper's run; None when not known.
        provenance: where the images come from.
        synthetic: a program made them, so that scores must not be compared with patients'.
        images: number of images.
        patients: number of patients.
        overlap: the images and patients that the weights were trained on; None when not known.
        positives: number of images with each label.
        positive_patients: number of patients with at least one image of each label.
        images_digest: identifies the set of images, see `Split.digests`; None when not known.
        crops: of each image, as in `config.eval.crops`; None when not known.
        missing: number of images in which each label is not known; empty if all are known.
        collection: that the images are of, see `Records`; None when not known.
    """

    split: str | None
    protocol: str | None
    backbone: str | None
    setting: Setting | None
    provenance: str
    synthetic: bool
    images: int
    patients: int
    overlap: Overlap | None
    positives: dict[str, int]
    positive_patients: dict[str, int]
    images_digest: str | None = None
    crops: str | None = None
    missing: Mapping[str, int] = dataclasses.field(default_factory=dict)
    collection: str | None = None

    @property
    def subset(self) -> str:
        """The scored subset in words, such as "test split"; "" where it is not known."""
        return "all films" if self.split == WHOLE else f"{self.split} split" if self.split else ""

    def known(self, label: str) -> int:
        """Return the number of images whose label is known."""
        return self.images - self.missing[label] if self.missing else self.images

    def prevalence(self, label: str) -> float | None:
        """Return the share of positives among the images whose label is known; None without any."""
        known = self.known(label)
        return self.positives[label] / known if known else None

    def counts(self, label: str) -> tuple[int, ...]:
        """Return the numbers of images in the columns `count_names`."""
        positives = self.positives[label]
        return (self.known(label), positives, self.missing[label]) if self.missing else (positives,)

    @property
    def count_names(self) -> tuple[str, ...]:
        """The columns of tables: positives, between known and missing where labels are missing."""
        return ("known", "positives", "missing") if self.missing else ("positives",)

    @property
    def missing_labels(self) -> dict[str, dict[str, int]]:
        """The numbers of known and missing labels for JSON; nothing if all are known."""
        if not self.missing:
            return {}
        known = {label: self.known(label) for label in self.missing}
        return {"known_labels": known, "missing_labels": dict(self.missing)}


def describe_cohort(
    label_matrix: np.ndarray,
    labels: Sequence[str],
    patient_ids: Sequence[Any] | np.ndarray,
    *,
    split: str | None,
    protocol: str | None,
    backbone: str | None,
    provenance: str,
    synthetic: bool,
    overlap: Overlap | None,
    setting: Setting | None = None,
    images_digest: str | None = None,
    crops: str | None = None,
    collection: str | None = None,
) -> Cohort:
    """Count images, patients and positives of labels `[N, C]` and patients `[N]`."""
    patients = np.asarray(patient_ids)
    missing = (label_matrix == MISSING).sum(axis=0).tolist()
    columns = {label: label_matrix[:, c] == 1 for c, label in enumerate(labels)}
    return Cohort(
        split=split,
        protocol=protocol,
        backbone=backbone,
        setting=setting,
        provenance=provenance,
        synthetic=synthetic,
        images=len(label_matrix),
        patients=len(np.unique(patients)),
        overlap=overlap,
        positives={label: int(column.sum()) for label, column in columns.items()},
        positive_patients={
            label: len(np.unique(patients[column])) for label, column in columns.items()
        },
        images_digest=images_digest,
        crops=crops,
        missing=dict(zip(labels, missing, strict=True)) if any(missing) else {},
        collection=collection,
    )


def headline(cohort: Cohort) -> str:
    """Describe the scored images in one line."""
    parts = [cohort.backbone, cohort.subset]
    subset = ", ".join(part for part in parts if part)
    if subset and cohort.protocol:
        subset += f" of the {cohort.protocol} protocol"
    counts = f"{cohort.images:,} images of {cohort.patients:,} patients"
    return f"{subset}{': ' if subset else ''}{counts}; {cohort.provenance}"


def leakage(cohort: Cohort) -> str | None:
    """Say how many of the images and patients the weights were trained on; None if not known."""
    overlap = cohort.overlap
    if overlap is None:
        return None
    counts = overlap.in_words(cohort.images, cohort.patients)
    text = f"{counts[0].upper()}{counts[1:]}."
    if overlap.images:
        return f"{text} These AUCs say little about images that were not trained on."
    if overlap.patients:
        return f"{text} Expect lower AUCs on patients never seen."
    return text


def check_overlap(
    run: Run,
    trained: Lineage,
    name: str,
    split: str,
    indices: np.ndarray,
    include_trained: bool,
) -> Overlap:
    """Count the images and patients of a subset that the model was trained on.

    Args:
        run: of the evaluation, whose data and split may differ from a run's.
        trained: what the model was trained on.
        name: the option that names the model.
        split: name of the subset.
        indices: records of the subset, int64 `[N]`.
        include_trained: allow images that the model was trained on in subsets other than `train`.

    Raises:
        UserError: if the model was trained on some of them, the subset is not `train`, and
            `include_trained` is False.
    """
    records = run.records
    overlap = trained.overlap(
        records.collection,
        records.image_ids[indices],
        records.patient_ids[indices],
        synthetic=records.synthetic,
    )
    if overlap.relative and split != "train" and not include_trained:
        raise UserError(
            f"{run.config.data.dir}: {records.collection}'s films are "
            f"{part_of(overlap.relative)}'s, and {name} was trained on {overlap.relative}, under "
            f"names that do not say which these are; score another collection, or pass "
            f"--include_trained to score these"
        )
    if overlap.images and split != "train" and not include_trained:
        raise UserError(
            f"{name} was trained on {overlap.images} of the {len(indices)} images of this {split} "
            f"subset (protocol {run.split.protocol}); score other images, such as those of "
            f"the test subset of its own split, or pass --include_trained to score these"
        )
    return overlap


def external_note(cohort: Cohort, trained: Lineage) -> str:
    """Say what was trained on and what is scored, where that is another collection."""
    sets = []
    for name in sorted({*trained.seen, *trained.unlisted}):
        drawn = "synthetic " if name in trained.synthetic_collections else ""
        images = trained.seen.get(name)
        count = f" ({len(images):,} {drawn}images)" if images else ""
        sets.append(f"{'unknown collections' if name == ANY_COLLECTION else name}{count}")
    scored = f"scored on {cohort.collection} ({cohort.images:,} images)"
    overlap = cohort.overlap
    clean = overlap is not None and overlap.complete and not overlap.images
    title = "External validation" if clean else "Another collection, perhaps not external"
    return f"{title}: trained on {' and '.join(sets)}, {scored}; nothing was fitted there."


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
