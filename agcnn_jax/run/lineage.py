"""The images that weights were trained on, directly or through the weights they started from.

The weights of a stage have seen the images of their run's training subset, and all that the
weights in `config.init` have seen. An image name identifies an image only within a collection
(`Records.collection`): a phantom and a radiograph may share a name.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from agcnn_jax.config.kinds import LIST_OF_TEXTS, TEXT
from agcnn_jax.data.collection import part_of
from agcnn_jax.data.patients import CHESTXRAY14, NIH_NAME, comparable, nih_name, patient_key
from agcnn_jax.data.text import match_names, name_parts, stem
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.storage import exists, read_json, write_json

FILE = "lineage.json"
"""The file in a workdir that holds the run's lineage."""

TRAIN_AGAIN = "train again in another --workdir"

ANY_COLLECTION = "*"
"""Stands for every collection if nothing is known about weights."""


@dataclasses.dataclass(frozen=True)
class Lineage:
    """The images that weights were trained on.

    Attributes:
        seen: `{collection: {image id: patient id}}`; an unknown patient is "".
        unlisted: collections of which the weights have seen unknown images; `ANY_COLLECTION` if
            not even the collection is known.
        synthetic_collections: those of `seen` whose images a program made; see `Collection`.
    """

    seen: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    unlisted: frozenset[str] = frozenset()
    synthetic_collections: frozenset[str] = frozenset()

    @property
    def synthetic(self) -> bool:
        """True if synthetic images were seen: the weights' answers say nothing about patients."""
        return bool(self.synthetic_collections)

    def joined(self, other: Lineage) -> Lineage:
        """Return the images that either has seen."""
        collections = sorted({*self.seen, *other.seen})
        seen = {c: {**self.seen.get(c, {}), **other.seen.get(c, {})} for c in collections}
        return Lineage(
            seen,
            self.unlisted | other.unlisted,
            self.synthetic_collections | other.synthetic_collections,
        )

    def overlap(
        self,
        collection: str,
        image_ids: Sequence[str],
        patient_ids: Sequence[str],
        *,
        synthetic: bool = False,
    ) -> Overlap:
        """Count the images and the patients of a subset `[N]` that the weights have seen.

        Images are found by name, see `find_films`. Patient ids that are the same whole number are
        one patient. The patients are not known if no id of the subset has the form of one that was
        seen. The counts are not complete if images were seen that cannot be compared with these:
        of the same collection under names of another form, with base names or patients that occur
        here too; or of another collection that shares films with this one (see `part_of`), unless
        both name their films as the NIH does. Films that a program made, as the subset's if
        `synthetic`, are no other collection's.
        """
        seen = self.seen.get(collection, {})
        found = find_films(image_ids, seen)
        uncertain = []
        others = {*self.seen, *self.unlisted} - {collection} - self.synthetic_collections
        for other in sorted(set() if synthetic else others):
            if part_of(other) == part_of(collection):
                of_other = self.seen.get(other, {})
                same = find_films(image_ids, of_other)
                if same or all(map(nih_name, [*image_ids, *of_other])):
                    found, seen = found | same, {**of_other, **seen}
                elif of_other:
                    uncertain.append(other)
                if other in self.unlisted:
                    uncertain.append(other)
        ours = {patient_key(patient) for patient in patient_ids}
        theirs = {patient_key(patient) for patient in set(seen.values()) - {""}}
        shared = ours & theirs
        # A seen image without a patient has the patient that the subset gives it.
        shared |= {
            patient_key(patient)
            for name, patient in zip(image_ids, patient_ids, strict=True)
            if name in found
        }
        bases = not {*map(stem, image_ids)}.isdisjoint(map(stem, seen))
        return Overlap(
            images=sum(name in found for name in image_ids),
            patients=len(shared),
            complete=not self.unlisted & {collection, ANY_COLLECTION}
            and not uncertain
            and (bool(found) or _alike(image_ids, seen) or not (shared or bases)),
            comparable=bool(shared) or not seen or not ours or comparable(ours, theirs),
            relative="" if found or not uncertain else uncertain[0],
        )

    def to_json(self) -> dict[str, Any]:
        """Return the lineage as JSON for `from_json`."""
        seen = {c: dict(sorted(images.items())) for c, images in sorted(self.seen.items())}
        synthetic = sorted(self.synthetic_collections)
        return {"seen": seen, "unlisted": sorted(self.unlisted), "synthetic": synthetic}

    @property
    def digest(self) -> str:
        """Return a hash of the lineage, 16 hex digits."""
        return hashlib.sha256(json.dumps(self.to_json()).encode()).hexdigest()[:16]

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Lineage:
        """Return the lineage of a `to_json`; `ValueError` if it is none."""
        try:
            seen = {
                collection: {name: TEXT.convert(patient) for name, patient in images.items()}
                for collection, images in value["seen"].items()
            }
            unlisted, synthetic = (
                frozenset(LIST_OF_TEXTS.convert(value[key])) for key in ("unlisted", "synthetic")
            )
        except (AttributeError, KeyError, TypeError):
            raise ValueError("not a lineage") from None
        return Lineage(seen, unlisted, synthetic)


@dataclasses.dataclass(frozen=True)
class Overlap:
    """The part of a subset that weights have seen.

    Attributes:
        images: number of its images among those that the weights are known to have seen.
        patients: number of its patients among the patients of those.
        complete: True if everything is known that the weights have seen of the collection, and
            its names can be compared. Otherwise the counts are lower bounds, and 0 means "not
            known".
        comparable: False if no patient id of the subset has the form of one that the weights have
            seen, so that 0 patients means "not known".
        relative: another collection of the same films that the weights have seen, and that cannot
            be compared with the subset; "" if there is none.
    """

    images: int
    patients: int
    complete: bool
    comparable: bool = True
    relative: str = ""

    def in_words(self, images: int, patients: int) -> str:
        """Describe both counts, of a subset with so many images and patients."""
        return (
            f"images trained on: {self._count(self.images, images)}; "
            f"patients shared with training: "
            f"{self._count(self.patients, patients) if self.comparable else 'not known'}"
        )

    def _count(self, known: int, of: int) -> str:
        if self.complete:
            return f"{known:,} of {of:,}"
        return f"at least {known:,} of {of:,}" if known else "not known"


NOTHING = Lineage()
"""The lineage of random weights, and of weights from other pictures, such as ImageNet."""

UNKNOWN = Lineage(unlisted=frozenset({ANY_COLLECTION}))
"""The lineage of weights of unknown origin."""


def find_films(image_ids: Sequence[str], seen: Iterable[str]) -> set[str]:
    """Find the images of a subset among those that were seen of their collection.

    Two names mean one film if they are equal, or both the NIH's name of a film (see `nih_name`).
    They also do if only one of them has leading folders, both without their extensions, and no
    other name on either side has the same base name: 1.png is a/1.dcm, but all films of CheXpert
    are called view1_frontal.jpg.
    """
    names, seen = set(image_ids), set(seen)
    nih = set(filter(None, map(nih_name, seen)))
    found = {name for name in names if name in seen or (nih and nih_name(name) in nih)}
    return found | match_names(_alone(names), _alone(seen)).keys()


def _alone(names: Collection[str]) -> list[str]:
    """Return the names whose base name no other has."""
    count = Counter(map(stem, names))
    return [name for name in names if count[stem(name)] == 1]


def _alike(names: Iterable[str], others: Iterable[str]) -> bool:
    """Tell whether a name of each has the same folders and punctuation, such as p1/view2_a."""

    def forms(of: Iterable[str]) -> set[str]:
        return {re.sub(r"[^\W_]+", "x", "/".join(name_parts(name))) for name in of}

    return not forms(names).isdisjoint(forms(others))


def lineage_of(
    collection: str, image_ids: Iterable[str], patient_ids: Iterable[str], *, synthetic: bool
) -> Lineage:
    """Return the lineage of weights trained on images `[N]` of patients `[N]` of a collection."""
    pairs = zip(image_ids, patient_ids, strict=True)
    seen = {collection: {str(name): str(patient) for name, patient in pairs}}
    return Lineage(seen, synthetic_collections=frozenset({collection} if synthetic else ()))


def lineage_of_names(image_ids: Iterable[str]) -> Lineage:
    """Return the lineage of weights trained on a list of images of ChestX-ray14.

    The file names contain the patient: 00000013_005.png is the sixth image of patient 13.
    """
    matches = {name: NIH_NAME.fullmatch(name) for name in image_ids}
    patients = {name: patient_key(match[1]) if match else "" for name, match in matches.items()}
    return Lineage({CHESTXRAY14: patients})


def digest(tree: Any) -> str:
    """Hash all arrays of a tree with their names, dtypes and shapes, to 16 hex digits."""
    import jax  # not where a lineage alone is read

    total = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(jax.device_get(tree)):
        array = np.ascontiguousarray(leaf)
        total.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        total.update(array.tobytes())
    return total.hexdigest()[:16]


def write(
    workdir: epath.Path, lineage: Lineage, init: str | None, collection: str | None = None
) -> None:
    """Write a run's `lineage.json`.

    Args:
        workdir: of the run.
        lineage: of its weights.
        init: digest of the weights in `config.init`, if any.
        collection: of the run's own data; None where the weights are no run's.
    """
    own = {"collection": collection} if collection else {}
    record = {"init": init, **own, **lineage.to_json()}
    write_json(workdir / FILE, record, "make it writable, or choose another --workdir", indent=None)


def read(workdir: epath.Path) -> tuple[Lineage, str | None]:
    """Read a run's `lineage.json` as (lineage, init); `UserError` if it cannot be read."""
    lineage, record = _read(workdir)
    return lineage, record["init"]


def own_collections(workdir: epath.Path) -> frozenset[str]:
    """Return the collection of a run's own data; all that its weights saw where it is not recorded.

    `UserError` if its `lineage.json` cannot be read.
    """
    lineage, record = _read(workdir)
    own = record.get("collection")
    return frozenset([own] if isinstance(own, str) else lineage.seen)


def _read(workdir: epath.Path) -> tuple[Lineage, Mapping[str, Any]]:
    """Read a run's `lineage.json` as its lineage and the whole record, which has an `init`."""
    path = workdir / FILE
    if not exists(path):
        raise UserError(f"{path} is missing, so the training images are unknown; {TRAIN_AGAIN}")
    record = read_json(path, TRAIN_AGAIN)
    try:
        record["init"]
        return Lineage.from_json(record), record
    except (KeyError, ValueError):
        raise UserError(f"{path} is damaged or of another version; {TRAIN_AGAIN}") from None
