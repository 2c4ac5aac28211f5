"""The scored images described: who they are, where they come from, what the model knew of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agcnn_jax.data.collection import SYNTHETIC, part_of
from agcnn_jax.data.labels import MISSING
from agcnn_jax.data.splits import WHOLE
from agcnn_jax.evaluation.scoring.references import Setting
from agcnn_jax.run.lineage import ANY_COLLECTION, Lineage, Overlap
from agcnn_jax.run.run import Run
from agcnn_jax.runtime.errors import UserError

SYNTHETIC_NOTE = f"{SYNTHETIC}: these numbers say nothing about patients."

MISSING_NOTE = (
    "Each finding is measured on the images whose label for it is known. A report does not mention "
    "every finding, and the labels that it mentions are no random sample of films: AUCs, "
    "prevalence and predictive values may differ on all films."
)


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
