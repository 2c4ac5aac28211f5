"""Prepared data sets with labels that are not known."""

import csv
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np

from agcnn_jax.data.labels import MISSING
from agcnn_jax.data.records import STORE


def missing_labels(matrix, share, seed=0):
    """Copy a matrix of labels, with about this share of it not known; the same for one seed."""
    drawn = np.random.default_rng(seed).random(matrix.shape)
    return np.where(drawn < share, MISSING, matrix).astype(np.uint8)


def copy_with_missing(data_dir, target, change):
    """Copy a data set to a new folder, with `change(matrix)` as its labels; return that folder."""
    store = Path(target) / STORE
    shutil.copytree(Path(data_dir) / STORE, store)
    metadata = json.loads((store / "metadata.json").read_text())
    names = metadata["labels"]
    with (store / "records.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    known = [[name in row["labels"].split("|") for name in names] for row in rows]
    for row, labels in zip(rows, change(np.array(known, np.uint8)), strict=True):
        for column, value in (("labels", 1), ("unknown", MISSING)):
            row[column] = "|".join(names[i] for i in np.flatnonzero(labels == value))
    with (store / "records.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    digest = hashlib.sha256((store / "records.csv").read_bytes()).hexdigest()
    metadata["digests"]["records.csv"] = metadata["fingerprint"] = digest
    (store / "metadata.json").write_text(json.dumps(metadata))
    return Path(target)
