"""A prepared dataset: its metadata and its columns."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from etils import epath

from agcnn_jax.data.images import ImagesAndLabels
from agcnn_jax.data.labels import MISSING
from agcnn_jax.data.store import TABLES, check_digest, check_shards, read_columns, read_metadata
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.mirror import mirror
from agcnn_jax.runtime.paths import expanded_path
from agcnn_jax.runtime.storage import absolute, is_remote, reported

STORE = Path("chest_xray14/1.0.0")
FILMS = Path("films/1.0.0")
STORES = (STORE, FILMS)
"""The datasets that `data_prep/chestxray14.py` and `data_prep/from_csv.py` write."""

HOW_TO_PREPARE = (
    "prepare it with: python data_prep/chestxray14.py --raw_dir RAW for NIH's images or phantoms, "
    "or python data_prep/from_csv.py --images FILMS --labels TABLE --collection NAME for others, "
    "and --data_dir"
)


@dataclass(frozen=True, eq=False)
class Boxes:
    """The annotated boxes of all records, in record order.

    Attributes:
        records: index of each box's record, int64 `[M]`.
        findings: each box's finding, str `[M]`.
        corners: half-open `xmin, ymin, xmax, ymax` in pixels of the original file, float32
            `[M, 4]`.
    """

    records: np.ndarray
    findings: np.ndarray
    corners: np.ndarray


@dataclass(frozen=True, eq=False)
class Records:
    """A prepared dataset of N records and C labels; columns are in record order.

    Attributes:
        directory: the folder of the dataset itself.
        labels: names of the columns of `label_matrix`.
        findings: the labels over which AUC is averaged.
        provenance: origin of the images.
        collection: the set in which image ids are unique: `ChestX-ray14`, one cohort of phantoms,
            or as `data_prep/from_csv.py --collection` named it.
        synthetic: a program made the images; see `Collection`.
        image_size: side S of the stored images in pixels.
        fingerprint: hex digest of all columns, boxes and pixels in record order.
        image_ids: file names, or paths in the folder of the films; str `[N]`.
        patient_ids: str `[N]`; equal for one patient, see `read_patients`.
        label_matrix: 0, 1 or `MISSING`, uint8 `[N, C]`.
        follow_ups: int64 `[N]`.
        ages: in years, -1 if unknown, int64 `[N]`.
        sexes: str `[N]`.
        views: "PA" or "AP", str `[N]`.
        widths: of the original files in pixels, int64 `[N]`.
        heights: of the original files in pixels, int64 `[N]`.
        official: subset in the dataset's own lists, "train_val" or "test"; or in a split column,
            "train", "validation" or "test"; else ""; str `[N]`.
        official_names: number of names with such a subset, including images that are not in the
            dataset; 0 without any.
        shards: path and number of records of each shard.
    """

    directory: Path
    labels: tuple[str, ...]
    findings: tuple[str, ...]
    provenance: str
    collection: str
    synthetic: bool
    image_size: int
    fingerprint: str
    image_ids: np.ndarray
    patient_ids: np.ndarray
    label_matrix: np.ndarray
    follow_ups: np.ndarray
    ages: np.ndarray
    sexes: np.ndarray
    views: np.ndarray
    widths: np.ndarray
    heights: np.ndarray
    official: np.ndarray
    official_names: int
    shards: tuple[tuple[str, int], ...]

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def finding_columns(self) -> np.ndarray:
        """Indices of the findings among the labels, int64 `[F]`."""
        return np.array([self.labels.index(name) for name in self.findings], np.int64)

    @property
    def has_missing(self) -> bool:
        """Tell whether a label of any record is not known."""
        return bool((self.label_matrix == MISSING).any())

    @functools.cached_property
    def boxes(self) -> Boxes:
        """The annotated boxes."""
        columns = read_columns(self.directory / "boxes.csv")
        index = {name: position for position, name in enumerate(self.image_ids.tolist())}
        corners = [columns[side] for side in ("xmin", "ymin", "xmax", "ymax")]
        return Boxes(
            np.array([index[name] for name in columns["image_id"]], np.int64),
            np.array(columns["finding"], np.str_),
            np.array(corners, np.float32).reshape(4, -1).T,
        )

    def images_and_labels(self) -> ImagesAndLabels:
        """Return random access to images and labels."""
        return self._images_and_labels

    @functools.cached_property
    def _images_and_labels(self) -> ImagesAndLabels:
        # Opened once: that takes as long as predicting a hundred images with a small network.
        return ImagesAndLabels(self.shards, self.image_size, self.image_ids, self.label_matrix)


def open_records(data_dir: str | Path) -> Records:
    """Open the dataset that `data_prep/chestxray14.py` or `data_prep/from_csv.py` wrote.

    Args:
        data_dir: the `--data_dir` that it was written to, or a copy of that folder. A folder in an
            object store, such as `gs://bucket/data`, is first copied to disk; see `mirror`.

    Returns:
        Its metadata and columns. Images are read on access.

    Raises:
        UserError: the dataset is missing, incomplete or damaged; the message names the file.
    """
    if is_remote(data_dir):
        return _open_remote(absolute(data_dir))
    data_dir = expanded_path(data_dir)
    if not data_dir.is_dir():
        raise UserError(f"{data_dir}: no such data folder; {HOW_TO_PREPARE} {data_dir}")
    nothing = f"no prepared dataset in it; {HOW_TO_PREPARE} {data_dir}"
    return _open(data_dir / _find_store(data_dir, nothing))


def _find_store(data_dir: Path | epath.Path, nothing: str) -> Path:
    """Return the one of `STORES` that is there; `UserError` if both are, or with `nothing`."""
    found = [store for store in STORES if (data_dir / store / "dataset_info.json").exists()]
    if not found:
        raise UserError(f"{data_dir}: {nothing}")
    if len(found) > 1:
        raise UserError(
            f"{data_dir}: two prepared datasets in it, {found[0].parent} and {found[1].parent}; "
            "move one to a folder of its own"
        )
    return found[0]


def _open_remote(data_dir: epath.Path) -> Records:
    nothing = (
        "no prepared dataset in it, or no permission to see it; "
        f"{HOW_TO_PREPARE} DATA, and copy the content of DATA there"
    )
    with reported(data_dir, "read"):
        directory = data_dir / _find_store(data_dir, nothing)
    copy = mirror(directory)
    try:
        return _open(copy)
    except UserError as error:
        raise UserError(
            f"{error} (this is a copy of {directory}; if the original is intact, delete {copy} and "
            "run the same command again)"
        ) from error


def _open(directory: Path) -> Records:
    metadata = read_metadata(directory)
    shards = check_shards(directory)
    for name in TABLES:
        check_digest(directory / name, metadata["digests"])
    columns = read_columns(directory / "records.csv")
    stored = sum(count for _, count in shards)
    if len(columns["image_id"]) != stored:
        raise UserError(
            f"{directory / 'records.csv'}: {len(columns['image_id'])} rows for {stored} records; "
            "delete the dataset and prepare it again"
        )
    labels = tuple(metadata["labels"])

    def text(name: str) -> np.ndarray:
        return np.array(columns[name], np.str_)

    def number(name: str) -> np.ndarray:
        return np.array(columns[name], np.int64)

    return Records(
        directory=directory,
        labels=labels,
        findings=tuple(metadata["findings"]),
        provenance=metadata["provenance"],
        collection=metadata["collection"],
        synthetic=metadata["synthetic"],
        image_size=metadata["image_size"],
        fingerprint=metadata["fingerprint"],
        image_ids=text("image_id"),
        patient_ids=text("patient_id"),
        label_matrix=_label_matrix(columns["labels"], columns.get("unknown"), labels),
        follow_ups=number("follow_up"),
        ages=number("age"),
        sexes=text("sex"),
        views=text("view"),
        widths=number("width"),
        heights=number("height"),
        official=text("official"),
        official_names=metadata["official_names"],
        shards=shards,
    )


def _label_matrix(
    positive: list[str], unknown: list[str] | None, labels: tuple[str, ...]
) -> np.ndarray:
    """Return the matrix of labels from each record's names, joined by `|`.

    A dataset without missing labels has no column of unknown ones.
    """
    index = {name: column for column, name in enumerate(labels)}
    matrix = np.zeros((len(positive), len(labels)), np.uint8)
    for value, rows in ((1, positive), (MISSING, unknown or ())):
        for record, row in enumerate(rows):
            matrix[record, [index[name] for name in row.split("|") if name]] = value
    return matrix
