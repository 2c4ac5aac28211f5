"""Finding images, archives and tables in an NIH download."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from agcnn_jax.data_prep.prepare.shards import Input
from agcnn_jax.runtime.errors import UserError

ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar", ".zip")
# Archives of these kinds are not read: a message advises to unpack them.
OTHER_SUFFIXES = (*ARCHIVE_SUFFIXES, ".tar.bz2", ".tar.xz", ".7z", ".rar")


class Tables(NamedTuple):
    """The files that describe the images; None for those that are missing."""

    labels: Path
    boxes: Path | None
    train_val: Path | None
    test: Path | None


def is_image_name(name: str) -> bool:
    """Return True for `*.png`, except the `._*` files that macOS adds to archives."""
    base = name.rsplit("/", 1)[-1]
    return base.lower().endswith(".png") and not base.startswith("._")


def find_inputs(raw_dir: Path) -> list[Input]:
    """List `*.png` and `images_*` archives anywhere under `raw_dir`, sorted by relative path.

    Archives end with one of `ARCHIVE_SUFFIXES`. Follows links to folders. Folders and dangling
    links with the name of an image are listed too, so that the report names them.

    Raises:
        UserError: `raw_dir` is not a folder or contains no image.
    """
    if not raw_dir.is_dir():
        raise UserError(
            f"--raw_dir {raw_dir}: no such folder; give the one that holds NIH's images, "
            "or make phantoms with data_prep/phantoms.py"
        )
    inputs = sorted(_walk(raw_dir))
    if not inputs:
        others = sorted(
            path.name for path in raw_dir.rglob("*") if path.name.lower().endswith(OTHER_SUFFIXES)
        )
        remedy = f"unpack {others[0]}, or " if others else ""
        raise UserError(
            f"--raw_dir {raw_dir}: no *.png and no images_*.tar.gz or images_*.zip in it; {remedy}"
            "give the folder that holds NIH's images"
        )
    return inputs


def _walk(raw_dir: Path) -> Iterator[Input]:
    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: {error.strerror}; check the folder's permissions")

    visited = set()
    for folder, subfolders, files in os.walk(raw_dir, onerror=refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:  # a link to a parent folder would never end
            subfolders.clear()
            continue
        visited.add(real)
        # Links last, so that a folder with a link beside it is listed under its own name.
        subfolders.sort(key=lambda name: (os.path.islink(os.path.join(folder, name)), name))
        for name in files + subfolders:
            path = os.path.join(folder, name)
            relative = os.path.relpath(path, raw_dir).replace(os.sep, "/")
            if is_image_name(name):
                kind = "image"
            elif name.startswith("images_") and name.lower().endswith(ARCHIVE_SUFFIXES):
                kind = "archive"
            else:
                continue
            try:
                status = os.stat(path)
                yield Input(relative, kind, status.st_size, status.st_mtime_ns)
            except OSError:
                yield Input(relative, kind, 0, 0)


def find_tables(
    raw_dir: Path, labels: Path | None, boxes: Path | None, lists: Path | None
) -> Tables:
    """Find the tables: as given, else in `raw_dir`, else in the folder above it.

    Args:
        raw_dir: folder with the images.
        labels: the label csv, or None to look for `Data_Entry_2017*.csv[.gz]`.
        boxes: the box list, or None to look for `BBox_List_2017*.csv[.gz]`.
        lists: folder of `train_val_list*.txt[.gz]` and `test_list*.txt[.gz]`, or None to look.

    Raises:
        UserError: a given file or folder, the label csv, or one of the two lists is missing.
    """
    for option, path in (("--labels", labels), ("--boxes", boxes)):
        if path is not None and not path.is_file():
            raise UserError(f"{option} {path}: no such file; check the path")
    if lists is not None and not lists.is_dir():
        raise UserError(f"--lists {lists}: no such folder; check the path")
    labels = labels or _find(raw_dir, "Data_Entry_2017*.csv")
    if labels is None:
        raise UserError(
            f"--raw_dir {raw_dir}: no Data_Entry_2017*.csv[.gz] in it or in the folder above; "
            "put NIH's table there or name it with --labels"
        )
    train_val, test = (
        _newest(lists, pattern) if lists else _find(raw_dir, pattern)
        for pattern in ("train_val_list*.txt", "test_list*.txt")
    )
    if (train_val is None) != (test is None) or (lists and train_val is None):
        missing = "train_val_list.txt" if train_val is None else "test_list.txt"
        place = f"--lists {lists}" if lists else f"{(train_val or test or raw_dir).parent}"
        raise UserError(f"{place}: no {missing} there; both of NIH's lists are needed")
    return Tables(labels, boxes or _find(raw_dir, "BBox_List_2017*.csv"), train_val, test)


def _find(raw_dir: Path, pattern: str) -> Path | None:
    return _newest(raw_dir, pattern) or _newest(raw_dir.absolute().parent, pattern)


def _newest(folder: Path, pattern: str) -> Path | None:
    """Return the newest edition (`..._v2020` is the second); a plain file before a gzipped one."""
    matches = sorted(folder.glob(pattern)) or sorted(folder.glob(f"{pattern}.gz"))
    return max(matches, key=lambda path: (len(path.stem), path.stem), default=None)
