"""Training, validation and test subsets: index lists computed from image names and a seed."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agcnn_jax.data import PROTOCOLS
from agcnn_jax.data.labels import MISSING
from agcnn_jax.data.records import Records
from agcnn_jax.data.text import match_names, read_names, stem
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.paths import expanded_path

SUBSETS = ("train", "validation", "test")
WHOLE = "all"
"""The subset, and the protocol, of all records of a dataset that is not split."""
LISTED = ("official", "lists")
"""Protocols that use lists of image names."""
# NIH's lists join training and validation. An eighth gives 70/10/20, as in CheXNet's splits.
OFFICIAL_VALIDATION = 1 / 8
# Largest share of the images that lists may leave out; beyond it, a list is probably truncated.
MAX_UNLISTED = 0.01
# Words in the names of list files, such as chexnet_val_list.txt.gz.
_LIST_WORDS = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}


@dataclass(frozen=True, eq=False)
class Split:
    """Three disjoint sets of records.

    Attributes:
        protocol: one of `PROTOCOLS`.
        train: ascending record indices, int64; no record without any known label.
        validation: ascending record indices, int64.
        test: ascending record indices, int64.
        shared_patients: number of test patients who also occur in training.
        digests: subset -> hex digest of its image ids, in order.
        absent_names: number of listed names that are not in the dataset; 0 without lists.
        unlisted_images: number of images in no list; 0 without lists.
        unlabelled_images: number of images of the training subset that are not in `train`, since
            none of their labels is known.
        all: every record, where the dataset is not split and the other subsets are empty.
    """

    protocol: str
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    shared_patients: int
    digests: Mapping[str, str]
    absent_names: int = 0
    unlisted_images: int = 0
    unlabelled_images: int = 0
    all: np.ndarray | None = None

    @property
    def subsets(self) -> dict[str, np.ndarray]:
        """The records of each subset by its name, int64."""
        if self.all is not None:
            return {WHOLE: self.all}
        return {subset: getattr(self, subset) for subset in SUBSETS}

    def summary(self) -> dict[str, Any]:
        """Return what a run records about its split, as JSON values."""
        return {
            "protocol": self.protocol,
            **{subset: len(getattr(self, subset)) for subset in SUBSETS},
            **{f"{subset}_digest": self.digests[subset] for subset in SUBSETS},
            "shared_patients": self.shared_patients,
            "absent_names": self.absent_names,
            "unlisted_images": self.unlisted_images,
            **({"unlabelled_images": self.unlabelled_images} if self.unlabelled_images else {}),
        }

    def in_words(self) -> str:
        """Describe the protocol and, if it uses lists, how they differ from the dataset."""
        if self.protocol not in LISTED:
            return f"protocol {self.protocol}"
        return (
            f"protocol {self.protocol}; its lists name {self.absent_names} images that are not "
            f"in the dataset, and leave out {self.unlisted_images} that are"
        )


def make_split(
    records: Records,
    protocol: str,
    seed: int,
    lists: Mapping[str, str | Path | Sequence[str]] | str | Path | None = None,
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
    allow_unlisted: bool = False,
) -> Split:
    """Split the records into training, validation and test subsets.

    The result depends on image names, patients and the seed, but not on the order of the records.

    Args:
        records: the dataset.
        protocol: `random` shuffles images as in the paper (Section IV-A), so a patient may be in
            several subsets; `patient` shuffles patients; `official` uses the dataset's own test
            list and takes validation from the rest by patient; `lists` uses the given lists, whose
            names are found as `match_names` does, or without any the dataset's split column.
        seed: seed of the shuffling, 0 or more; `lists` ignores it.
        lists: for `lists`: subset -> names or the path of a list, or a folder with one list for
            each subset, such as `chexnet_train_list.txt.gz`.
        fractions: shares of train, validation and test for `random` and `patient`; their sum is 1.
        allow_unlisted: accept lists that leave out more than `MAX_UNLISTED` of the images.

    Returns:
        The split; no subset is empty.

    Raises:
        UserError: an unknown protocol; missing, overlapping or truncated lists; an empty subset;
            a training subset without any known label.
    """
    if seed < 0:
        raise UserError(f"config.data.split_seed {seed}: must be 0 or more")
    absent = 0
    if protocol == "random":
        members = _divide(records.image_ids, fractions, seed)
    elif protocol == "patient":
        members = _divide(records.patient_ids, fractions, seed)
    elif protocol == "official":
        members, absent = _official(records, seed, lists)
    elif protocol == "lists":
        members, absent = _from_lists(records, lists)
    else:
        raise UserError(f"config.data.protocol {protocol!r}: must be one of {', '.join(PROTOCOLS)}")
    unlisted = np.flatnonzero(~np.any(members, axis=0))
    _check_members(records, protocol, members)
    if not allow_unlisted:
        _check_unlisted(records, protocol, unlisted)
    train, validation, test = parts = [np.flatnonzero(member) for member in members]
    labelled = (records.label_matrix[train] != MISSING).any(axis=1)
    if not labelled.any():
        raise UserError(
            f"config.data.protocol {protocol!r}: none of the {len(train)} images of the training "
            f"subset in {records.directory} has a known label; prepare the data with more labels, "
            "or split it otherwise"
        )
    parts[0] = train = train[labelled]
    shared = np.intersect1d(records.patient_ids[train], records.patient_ids[test])
    digests = [digest_of(records.image_ids[part]) for part in parts]
    return Split(
        protocol,
        train,
        validation,
        test,
        len(shared),
        dict(zip(SUBSETS, digests, strict=True)),
        absent,
        len(unlisted),
        int((~labelled).sum()),
    )


def whole(records: Records) -> Split:
    """Return the split of a dataset of which every record is scored, and none trained on."""
    none, every = np.empty(0, np.int64), np.arange(len(records))
    digests = {**dict.fromkeys(SUBSETS, digest_of(none)), WHOLE: digest_of(records.image_ids)}
    return Split(WHOLE, none, none, none, 0, digests, all=every)


def _check_members(records: Records, protocol: str, members: Sequence[np.ndarray]) -> None:
    """Raise `UserError` if a subset is empty."""
    for subset, member in zip(SUBSETS, members, strict=True):
        if not member.any():
            other = ", or --config.data.protocol=random or patient" if protocol in LISTED else ""
            raise UserError(
                f"config.data.protocol {protocol!r}: none of the {len(records)} records in "
                f"{records.directory} is in the {subset} subset; use more images{other}"
            )


def _check_unlisted(records: Records, protocol: str, unlisted: np.ndarray) -> None:
    """Raise `UserError` if more than `MAX_UNLISTED` of the images are in no list."""
    if len(unlisted) > MAX_UNLISTED * len(records):
        raise UserError(
            f"config.data.protocol {protocol!r}: its lists leave out {len(unlisted)} of the "
            f"{len(records)} images in {records.directory}, such as "
            f"{records.image_ids[unlisted[0]]}; check that they are complete, or set "
            "--config.data.allow_unlisted=True to leave these images out"
        )


def digest_of(names: np.ndarray) -> str:
    """Return 16 hex digits of the SHA-256 of image names, in order."""
    return hashlib.sha256("\n".join(names.tolist()).encode()).hexdigest()[:16]


def _divide(keys: np.ndarray, fractions: Sequence[float], seed: int) -> list[np.ndarray]:
    """Return each subset's members, bool `[N]`. Records with equal keys stay together."""
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise UserError(f"split fractions {tuple(fractions)}: must be three shares that sum to 1")
    unique, inverse = np.unique(keys, return_inverse=True)  # sorted, so order has no effect
    rank = np.random.default_rng(seed).permutation(len(unique))[inverse]
    ends = np.rint(np.cumsum((0.0, *fractions)) * len(unique))
    return [(rank >= low) & (rank < high) for low, high in itertools.pairwise(ends)]


def _has_split_column(records: Records) -> bool:
    """Tell whether `official` says who is in which subset, rather than NIH's two lists."""
    return bool(np.isin(records.official, ("train", "validation")).any())


def _absent(records: Records) -> int:
    """Return the number of names with an official subset that are not in the dataset."""
    return records.official_names - int(np.count_nonzero(records.official != ""))


def _official(records: Records, seed: int, lists: object) -> tuple[list[np.ndarray], int]:
    """Return each subset's members and the number of listed names not in the dataset."""
    if _has_split_column(records):
        raise UserError(
            f"config.data.protocol 'official': {records.directory} has no official lists, but a "
            "split column; set --config.data.protocol=lists, which reads it"
        )
    if not records.official_names:
        others = "random, patient or lists" if lists else "random or patient"
        raise UserError(
            f"config.data.protocol 'official': {records.directory} was prepared without the "
            f"official lists; set --config.data.protocol to {others}, or put train_val_list.txt "
            "and test_list.txt beside the images and prepare it again"
        )
    train_val = records.official == "train_val"
    subset = _divide(
        records.patient_ids[train_val], (1 - OFFICIAL_VALIDATION, OFFICIAL_VALIDATION, 0), seed
    )
    members = [np.zeros(len(records), bool) for _ in subset]
    for member, part in zip(members, subset, strict=True):
        member[train_val] = part
    return [members[0], members[1], records.official == "test"], _absent(records)


def _from_lists(
    records: Records, lists: Mapping[str, str | Path | Sequence[str]] | str | Path | None
) -> tuple[list[np.ndarray], int]:
    """Return each subset's members and the number of listed names not in the dataset."""
    if lists is None:
        if _has_split_column(records):
            return [records.official == subset for subset in SUBSETS], _absent(records)
        raise UserError(
            "config.data.protocol 'lists' needs a folder with train, val and test lists; "
            "name it with --config.data.lists=FOLDER, or prepare films whose table has a split "
            "column with data_prep/from_csv.py"
        )
    if isinstance(lists, str | Path):
        lists = _find_lists(expanded_path(lists))
    if set(lists) != set(SUBSETS):
        raise UserError(
            f"config.data.lists for {', '.join(sorted(lists)) or 'nothing'}: "
            f"must be for {', '.join(SUBSETS)}"
        )
    index = {name: position for position, name in enumerate(records.image_ids.tolist())}
    # Where folders tell images apart, they do so for images that are not in the data too.
    absent_key = str if any("/" in name for name in index) else stem
    owner: dict[str, str] = {}
    members = []
    absent = 0
    names_of = {
        subset: read_names(Path(source), index) if isinstance(source, str | Path) else source
        for subset, source in lists.items()
    }
    for subset in SUBSETS:
        names = names_of[subset]
        images = match_names(names, index)
        if names and not images:
            raise UserError(
                f"config.data.protocol 'lists': none of the {len(records)} records in "
                f"{records.directory} is in the {subset} subset, whose list begins with "
                f"{names[0]!r}, and the data with {next(iter(index))!r}; use lists of these "
                "images, more images, or --config.data.protocol=random or patient"
            )
        member = np.zeros(len(records), bool)
        # Names of one image that is not in the data count once.
        for name, image in {images.get(name, absent_key(name)): name for name in names}.items():
            if owner.setdefault(name, subset) != subset:
                raise UserError(
                    f"config.data.lists: {image} is in the {owner[name]} list and in the {subset} "
                    "list; take it out of one"
                )
            if name in index:
                member[index[name]] = True
            else:
                absent += 1
        members.append(member)
    return members, absent


def _find_lists(folder: Path) -> dict[str, Path]:
    """Return the list of each subset; `UserError` unless the folder has one of each."""
    if not folder.is_dir():
        raise UserError(f"config.data.lists {folder}: no such folder; check the path")
    paths: dict[str, Path] = {}
    for subset, words in _LIST_WORDS.items():
        matches = [
            path
            for path in sorted(folder.iterdir())
            if path.name.endswith((".txt", ".txt.gz"))
            and set(path.name.lower().split(".")[0].replace("-", "_").split("_")) & set(words)
        ]
        if len(matches) != 1:
            names = f" ({', '.join(path.name for path in matches)})" if matches else ""
            raise UserError(
                f"config.data.lists {folder}: {len(matches)} files named like {words[0]}_list.txt"
                f"{names}; there must be one for the {subset} subset"
            )
        paths[subset] = matches[0]
    return paths
