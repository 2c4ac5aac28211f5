"""Names of images: which one a table, a list or a file means."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TypeVar

from agcnn_jax.data.text import match_names, read_names, stem
from agcnn_jax.runtime.errors import UserError, say

Box = TypeVar("Box")


def file_name(name: str) -> str:
    """Return the name of a PNG file for the name of an image in a table: without folders."""
    base = name.replace("\\", "/").rpartition("/")[2]
    return base if base.lower().endswith(".png") else f"{stem(name)}.png"


def row_name(file: str, labels: Collection[str]) -> str:
    """Return the image name under which a table has a file, or the file's name if it has none.

    The extensions may differ in capitals.
    """
    names = (file, f"{stem(file)}.png", f"{stem(file)}.PNG")
    return next((name for name in names if name in labels), file)


def match_boxes(
    boxes: dict[str, tuple[Box, ...]], labels: Collection[str], path: Path, table: Path
) -> dict[str, tuple[Box, ...]]:
    """Name the images of the box list `path` as the label table does; say if it has none."""
    in_table = match_names(boxes, labels)
    if boxes and not in_table:
        say(
            f"{path}: the data set gets no boxes, since none of the images, such as "
            f"{next(iter(boxes))!r}, is in {table}, whose first is {next(iter(labels))!r}"
        )
    matched: dict[str, tuple[Box, ...]] = {}
    for name, own in boxes.items():
        image = in_table.get(name, name)
        matched[image] = matched.get(image, ()) + own
    return matched


def read_official(train_val: Path, test: Path, labels: Collection[str]) -> dict[str, str]:
    """Read NIH's two lists; return image name -> "train_val" or "test".

    Args:
        train_val: the first list, see `read_names`.
        test: the second list.
        labels: the names of the images, which listed names get whatever their folders and
            extension; others are kept.

    Raises:
        UserError: a list is unreadable, or a name is in both.
    """
    lists = {"train_val": read_names(train_val), "test": read_names(test)}
    names = [name for listed in lists.values() for name in listed]
    in_table = match_names(names, labels)
    subsets: dict[str, str] = {}
    for subset, listed in lists.items():
        for name in listed:
            if subsets.setdefault(in_table.get(name, name), subset) != subset:
                raise UserError(
                    f"{name} is in both {train_val} and {test}; download both lists again"
                )
    return subsets
