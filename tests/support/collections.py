"""Prepared data sets under the name of another collection, with names of its own for findings."""

import csv
import hashlib
import json
import shutil
from pathlib import Path

from agcnn_jax.data.records import STORE


def copy_as(data_dir, target, collection, names=None, added=(), image_name=None, **metadata):
    """Copy a data set to a new folder as one of another collection; return that folder.

    Args:
        data_dir: of the data set.
        target: the folder to make.
        collection: its name.
        names: `{label: its new name}`; None leaves the label out.
        added: labels that no image has.
        image_name: a function of the number of an image, for its new name; then its pixels cannot
            be read.
        metadata: other entries of `metadata.json` to change.
    """
    store = Path(target) / STORE
    shutil.copytree(Path(data_dir) / STORE, store)
    names = names or {}

    def renamed(labels):
        return [new for label in labels if (new := names.get(label, label)) is not None]

    about = json.loads((store / "metadata.json").read_text())
    images = {}
    for table, change in (("records.csv", _records), ("boxes.csv", _boxes)):
        with (store / table).open(newline="") as file:
            reader = csv.DictReader(file)
            header, rows = reader.fieldnames, list(reader)
        for i, row in enumerate(rows):
            if table == "records.csv":
                new = image_name(i) if image_name else row["image_id"]
                images[row["image_id"]] = new
            row["image_id"] = images[row["image_id"]]
            change(row, renamed)
        rows = [row for row in rows if row.get("finding") != ""]
        with (store / table).open("w", newline="") as file:
            writer = csv.DictWriter(file, header, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        about["digests"][table] = hashlib.sha256((store / table).read_bytes()).hexdigest()
    for key in ("labels", "findings"):
        about[key] = [*renamed(about[key]), *added]
    fingerprint = hashlib.sha256(repr((about["digests"], about["labels"])).encode()).hexdigest()
    about |= {"collection": collection, "fingerprint": fingerprint, **metadata}
    (store / "metadata.json").write_text(json.dumps(about))
    return Path(target)


def _records(row, renamed):
    for column in ("labels", "unknown"):
        if column in row:
            row[column] = "|".join(renamed(filter(None, row[column].split("|"))))


def _boxes(row, renamed):
    row["finding"] = "".join(renamed([row["finding"]]))
