"""Table 1 of a paper: who is in each subset of the images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from agcnn_jax.data.text import csv_text
from agcnn_jax.evaluation.files.table import DASH, Table
from agcnn_jax.evaluation.scoring.cohort import Subset
from agcnn_jax.metrics.subgroups import UNKNOWN, age_groups

MISSING = "missing"
NOTE = (
    "Shares are of the subset's images or patients. A patient counts in every row that one of the "
    "patient's images is in, so patients may add up to more than all. Ages are those of images."
)


class _Cell(NamedTuple):
    """One characteristic of a subset: counts, or the quartiles of a number."""

    images: int | None = None
    patients: int | None = None
    quartiles: tuple[float, ...] | None = None


def table_one(subsets: Sequence[Subset]) -> Table:
    """Build the table, with columns for the images and the patients of each subset."""
    cells_of = [_describe(subset) for subset in subsets]
    rows = []
    for characteristic, value in _rows(cells_of):
        cells = [f"{characteristic}{': ' if value else ''}{value}"]
        for one in cells_of:
            everything = one["all", ""]
            cell = one.get((characteristic, value), _Cell(0, 0))
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


def table_one_csv(subsets: Sequence[Subset]) -> str:
    """Write a row for each characteristic, value and subset."""
    cells_of = [_describe(subset) for subset in subsets]
    header = ["subset", "characteristic", "value", "images", "patients"]
    rows = []
    for place in _rows(cells_of):
        for subset, cells in zip(subsets, cells_of, strict=True):
            images, patients, quartiles = cells.get(place, _Cell(0, 0))
            rows.append([subset.name, *place, images, patients, *(quartiles or ())])
    return csv_text([*header, "lower_quartile", "median", "upper_quartile"], rows)


def _describe(subset: Subset) -> dict[tuple[str, str], _Cell]:
    """Compute the cells by characteristic and value, in the order of the table."""
    patients = subset.patients

    def count(mask: np.ndarray) -> _Cell:
        return _Cell(int(mask.sum()), len(np.unique(patients[mask])))

    cells = {("all", ""): count(np.ones(len(patients), bool))}
    _, images = np.unique(patients, return_counts=True)
    cells["images a patient, median [quartiles]", ""] = _quartiles(images)
    known = age_groups(subset.ages) != UNKNOWN
    cells["age in years, median [quartiles]", ""] = _quartiles(subset.ages[known])
    cells["age", MISSING] = count(~known)
    for name, column in (("sex", subset.sexes), ("view", subset.views)):
        values = np.where(column == "", UNKNOWN, column)
        for value in np.unique(values[values != UNKNOWN]):
            cells[name, str(value)] = count(values == value)
        cells[name, MISSING] = count(values == UNKNOWN)
    for c, label in enumerate(subset.labels):
        cells["finding", label] = count(subset.label_matrix[:, c] == 1)
    return cells


def _quartiles(values: np.ndarray) -> _Cell:
    if not len(values):
        return _Cell()
    return _Cell(quartiles=tuple(np.quantile(values, (0.25, 0.5, 0.75)).tolist()))


def _rows(cells_of: Sequence[dict[tuple[str, str], _Cell]]) -> list[tuple[str, str]]:
    """List the rows of any subset; values of sex and view in one order, what is missing last."""
    places = dict.fromkeys(place for one in cells_of for place in one)
    kinds = list(dict.fromkeys(characteristic for characteristic, _ in places))

    def key(place: tuple[str, str]) -> tuple[Any, ...]:
        kind, value = place
        return kinds.index(kind), value == MISSING, "" if kind == "finding" else value

    return sorted(places, key=key)


def _percent(count: int | None, total: int | None) -> str:
    return f"{100 * (count or 0) / (total or 1):.1f} %"
