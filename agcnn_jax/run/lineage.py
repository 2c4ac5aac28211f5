"""Which images a set of weights has been trained on, inherited by whatever is trained from it.

A stage's weights have seen the images of its run's training subset and whatever the weights that
the run started from had seen, over any number of steps. Image names mean something only within a
collection (`Records.collection`): a phantom and a radiograph may share a name.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.storage import exists, read_json, write_json

FILE = "lineage.json"
"""In a run's workdir: what the run was trained on."""

TRAIN_AGAIN = "train again in another --workdir"

ANY_COLLECTION = "*"
"""Stands for all collections where nothing is known about what weights were trained on."""

CHESTXRAY14 = "ChestX-ray14"
"""The collection of NIH's images (Wang et al. 2017)."""

NIH_NAME = re.compile(r"(\d{8})_\d{3}\.png")
"""A file name of NIH's, with the patient's number."""


@dataclasses.dataclass(frozen=True)
class Lineage:
    """The images that some weights have been trained on.

    Attributes:
        seen: `{collection: {image id: patient id}}`; the patient id is "" where it is not known.
        unlisted: collections of which the weights have seen images that no list names;
            `ANY_COLLECTION` where not even the collection is known.
    """

    seen: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    unlisted: frozenset[str] = frozenset()

    def joined(self, other: Lineage) -> Lineage:
        """The images that either has seen."""
        collections = sorted({*self.seen, *other.seen})
        seen = {c: {**self.seen.get(c, {}), **other.seen.get(c, {})} for c in collections}
        return Lineage(seen, self.unlisted | other.unlisted)

    def overlap(
        self, collection: str, image_ids: Sequence[str], patient_ids: Sequence[str]
    ) -> Overlap:
        """Count which of some images, and of their patients, the weights have seen.

        Args:
            collection: of the images.
            image_ids: names `[N]`.
            patient_ids: `[N]`, of each image.
        """
        seen = self.seen.get(collection, {})
        patients = set(seen.values()) - {""}
        # A list without patients still tells the patients of the images that it shares with these.
        patients |= {p for name, p in zip(image_ids, patient_ids, strict=True) if name in seen}
        return Overlap(
            images=sum(name in seen for name in image_ids),
            patients=len(patients & set(patient_ids)),
            complete=not self.unlisted & {collection, ANY_COLLECTION},
        )

    def to_json(self) -> dict[str, Any]:
        """JSON of all that is known; the inverse of `from_json`."""
        seen = {c: dict(sorted(images.items())) for c, images in sorted(self.seen.items())}
        return {"seen": seen, "unlisted": sorted(self.unlisted)}

    @property
    def digest(self) -> str:
        """16 hex digits that tell lineages apart."""
        return hashlib.sha256(json.dumps(self.to_json()).encode()).hexdigest()[:16]

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Lineage:
        """Read what `to_json` made.

        Raises:
            ValueError: if it is something else.
        """
        seen: Any = value.get("seen")
        unlisted: Any = value.get("unlisted")
        well_formed = (
            isinstance(seen, dict)
            and isinstance(unlisted, list)
            and all(isinstance(images, dict) for images in seen.values())
            and all(isinstance(p, str) for images in seen.values() for p in images.values())
            and all(isinstance(collection, str) for collection in unlisted)
        )
        if not well_formed:
            raise ValueError("not a lineage")
        return Lineage(seen, frozenset(unlisted))


@dataclasses.dataclass(frozen=True)
class Overlap:
    """How much of a subset some weights have seen.

    Attributes:
        images: how many of its images they were trained on, as far as lists tell.
        patients: how many of its patients have an image among those.
        complete: whether the lists name all that the weights have seen of the collection; if not,
            the counts are lower bounds and a count of 0 means "not known".
    """

    images: int
    patients: int
    complete: bool

    def in_words(self, images: int, patients: int) -> str:
        """Say both counts of a subset's `images` and `patients`, and 0 only where it is known."""
        return (
            f"images trained on: {self._count(self.images, images)}; "
            f"patients shared with training: {self._count(self.patients, patients)}"
        )

    def _count(self, known: int, of: int) -> str:
        if self.complete:
            return f"{known:,} of {of:,}"
        return f"at least {known:,} of {of:,}" if known else "not known"


NOTHING = Lineage()
"""Of random weights, and of weights from other pictures, such as ImageNet's."""

UNKNOWN = Lineage(unlisted=frozenset({ANY_COLLECTION}))
"""Of weights that say nothing about where they come from."""


def lineage_of(collection: str, image_ids: Iterable[str], patient_ids: Iterable[str]) -> Lineage:
    """The lineage of weights that were trained on these images `[N]` of these patients `[N]`."""
    pairs = zip(image_ids, patient_ids, strict=True)
    return Lineage({collection: {str(name): str(patient) for name, patient in pairs}})


def lineage_of_names(image_ids: Iterable[str]) -> Lineage:
    """The lineage of weights that were trained on a list of ChestX-ray14's images.

    NIH's file names carry the patient: 00000013_005.png is the sixth image of patient 13.
    """
    patients = {}
    for name in image_ids:
        match = NIH_NAME.fullmatch(name)
        patients[name] = str(int(match[1])) if match else ""
    return Lineage({CHESTXRAY14: patients})


def digest(tree: Any) -> str:
    """Hash all arrays of a tree, with their names, dtypes and shapes.

    Returns:
        16 hex digits: enough to tell weights apart, and short enough to be shown.
    """
    total = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(jax.device_get(tree)):
        array = np.ascontiguousarray(leaf)
        total.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        total.update(array.tobytes())
    return total.hexdigest()[:16]


def keep(workdir: epath.Path, lineage: Lineage, init: str | None) -> None:
    """Write a run's `lineage.json`.

    Args:
        workdir: of the run.
        lineage: what all that the run trains will have seen.
        init: digest of the weights in `config.init`; None where that is random.

    Raises:
        UserError: if it cannot be written.
    """
    record = {"init": init, **lineage.to_json()}
    write_json(workdir / FILE, record, "make it writable, or choose another --workdir", indent=None)


def kept(workdir: epath.Path) -> tuple[Lineage, str | None]:
    """Read a run's `lineage.json`; see `keep`.

    Raises:
        UserError: if it is missing or damaged.
    """
    path = workdir / FILE
    if not exists(path):
        raise UserError(f"{path} is missing, which says what is trained on what; {TRAIN_AGAIN}")
    record = read_json(path, TRAIN_AGAIN)
    try:
        return Lineage.from_json(record), record["init"]
    except (KeyError, ValueError):
        raise UserError(f"{path} is damaged; {TRAIN_AGAIN}") from None
