"""Table 1 of a paper: who is in each subset of the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agcnn_jax.data.text import csv_text
from agcnn_jax.evaluation.files.table import DASH, Table
from agcnn_jax.evaluation.scoring.subsets import NO_LABEL, NOT_KNOWN, Cell, SubsetCounts

NOTE = (
    "Shares are of the subset's images or patients. A patient counts in every row that one of the "
    "patient's images is in, so patients may add up to more than all. Ages are those of images."
)


def table_one(subsets: Sequence[SubsetCounts]) -> Table:
    """Build the table, with columns for the images and the patients of each subset."""
    cells_of = [subset.cells for subset in subsets]
    rows = []
    for characteristic, value in _rows(cells_of):
        cells = [f"{characteristic}{': ' if value else ''}{value}"]
        for one in cells_of:
            everything = one["all", ""]
            cell = one.get((characteristic, value), Cell(0, 0))
            if cell.quartiles is not None:
                low, middle, high = cell.quartiles
                cells += [f"{middle:g} [{low:g}, {high:g}]", ""]
                continue
            for count, total in zip(cell[:2], everything[:2], strict=True):
                share = "" if characteristic == "all" else f" ({_percent(count, total)})"
                cells.append(DASH if count is None else f"{count:,}{share}")
        rows.append(tuple(cells))
    groups = (("", ("",)), *((one.name, ("images", "patients")) for one in subsets))
    return Table(groups, tuple(rows), below=(NOTE,))


def table_one_csv(subsets: Sequence[SubsetCounts]) -> str:
    """Write a row for each characteristic, value and subset."""
    cells_of = [subset.cells for subset in subsets]
    header = ["subset", "characteristic", "value", "images", "patients"]
    rows = []
    for place in _rows(cells_of):
        for subset, cells in zip(subsets, cells_of, strict=True):
            images, patients, quartiles = cells.get(place, Cell(0, 0))
            rows.append([subset.name, *place, images, patients, *(quartiles or ())])
    return csv_text([*header, "lower_quartile", "median", "upper_quartile"], rows)


def _rows(cells_of: Sequence[Mapping[tuple[str, str], Cell]]) -> list[tuple[str, str]]:
    """List the rows of any subset; values of sex and view in one order, what is missing last."""
    places = dict.fromkeys(place for one in cells_of for place in one)
    kinds = list(dict.fromkeys(characteristic for characteristic, _ in places))

    def key(place: tuple[str, str]) -> tuple[Any, ...]:
        kind, value = place
        in_order = kind in ("finding", NO_LABEL)
        return kinds.index(kind), value == NOT_KNOWN, "" if in_order else value

    return sorted(places, key=key)


def _percent(count: int | None, total: int | None) -> str:
    return f"{100 * (count or 0) / (total or 1):.1f} %"
