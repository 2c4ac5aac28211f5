"""The tables of an experiment, and its numbers as CSV."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from agcnn_jax.data.text import csv_text
from agcnn_jax.evaluation.auc.comparison import p_text
from agcnn_jax.evaluation.files.table import DASH, Table, interval_text, number
from agcnn_jax.evaluation.localisation.tables import NAMES
from agcnn_jax.evaluation.scoring.map_boxes import ATTENDED
from agcnn_jax.evaluation.scoring.references import load_published
from agcnn_jax.experiments.plan import EXPERIMENTS
from agcnn_jax.experiments.result import CHANCE, DIFFERENCE, SIZES
from agcnn_jax.experiments.summary import BY_FINDING
from agcnn_jax.metrics.interval import Interval
from agcnn_jax.models.agcnn import BRANCHES

Groups = tuple[tuple[str, tuple[str, ...]], ...]
Lines = tuple[tuple[str, ...], ...]

WITH_SIZES = (BY_FINDING, "detail")
"""The experiments with a table by size of the lesion."""

_INTERVAL = ("AUC", "95 % interval")


def as_tables(content: Mapping[str, Any], backbone: str) -> list[Table]:
    """Lay out an experiment's tables for one backbone, the main one first."""
    name, of_backbone = content["experiment"], content["backbones"][backbone]
    seeds, rows = of_backbone["seeds"], of_backbone["rows"]
    counted = f"{len(seeds)} seed{'s' * (len(seeds) != 1)} ({', '.join(map(str, seeds))})"
    above = (
        f"{content['title']}: {backbone}, {counted}; {content['images']['test']:,} test images of "
        f"{content['patients']:,} patients, {content['protocol']} protocol; "
        f"{content['provenance']}{_setting(name, of_backbone['config'])}",
    )
    groups, lines = _by_finding(rows) if name == BY_FINDING else _by_row(name, rows)
    tables = [Table(groups, lines, int(name == BY_FINDING), above)]
    if name in WITH_SIZES and _has_sizes(rows):
        above = ("By size of the lesion: thirds of each finding's annotated boxes, by area.",)
        groups, lines = _by_size(name, rows)
        tables.append(Table(groups, lines, above=above))
    if name == BY_FINDING and (attention := next(iter(rows.values()))["attention"]):
        above = (
            "Where attention points: the share of images in which the heat map's peak lies in an "
            "annotated box; in how many seeds that is more often than each kind of chance, with "
            "an interval over patients that excludes 0.",
        )
        groups, lines = _where_it_points(attention)
        tables.append(Table(groups, lines, above=above))
    partial = [
        f"{row or 'the table'} with seeds {', '.join(map(str, of_row['seeds']))}"
        for row, of_row in rows.items()
        if of_row["seeds"] != seeds
    ]
    unequal = (f"Not all rows have all seeds: {'; '.join(partial)}.",) if partial else ()
    below = (*unequal, *_notes(content, len(seeds)))
    tables[-1] = dataclasses.replace(tables[-1], below=below)
    return tables


def _setting(name: str, config: Mapping[str, Any]) -> str:
    """Name the statistic and tau of all rows, as far as the experiment does not vary them."""
    varied = {key for row in EXPERIMENTS[name].rows.values() for key in row}
    named = [
        f"{key.split('.')[1]} {config[key]}"
        for key in ("attention.statistic", "attention.tau")
        if key in config and key not in varied
    ]
    return f"; {', '.join(named)}" if named else ""


def _has_sizes(rows: Mapping[str, Any]) -> bool:
    branches = (branch for row in rows.values() for branch in row["branches"].values())
    return any(
        size["value"] is not None for branch in branches for size in branch["sizes"].values()
    )


def _by_size(name: str, rows: Mapping[str, Any]) -> tuple[Groups, Lines]:
    reference = EXPERIMENTS[name].reference
    groups: Groups = (
        ("", ("Lesions",)),
        *((branch, ("AUC",)) for branch in BRANCHES),
        ("fusion − global", _INTERVAL),
        *([(f"fusion − fusion of {reference}", _INTERVAL)] if reference else []),
    )
    lines = []
    for row, of_row in rows.items():
        for size in SIZES:
            of_size = [of_row["branches"][branch]["sizes"][size] for branch in BRANCHES]
            cells = (f"{row} {size}".strip(), *(number(one["value"]) for one in of_size))
            cells += _signed(of_row[f"{DIFFERENCE} by size"][size])
            if reference:
                minus = of_row.get("minus reference")
                cells += _signed(minus[f"fusion {size}"]) if minus else (DASH, DASH)
            lines.append(cells)
    return groups, tuple(lines)


def _where_it_points(attention: Mapping[str, Any]) -> tuple[Groups, Lines]:
    ways = (ATTENDED, *CHANCE)
    groups: Groups = (
        ("", ("Finding", "images")),
        ("points into a box", tuple(NAMES[way] for way in ways)),
        ("seeds above", tuple(NAMES[way] for way in CHANCE)),
    )
    lines = tuple(
        (
            finding,
            f"{of_finding['images']:,}",
            *(number(of_finding["pointing"].get(way)) for way in ways),
            *(str(of_finding["above"][way]) for way in CHANCE),
        )
        for finding, of_finding in attention.items()
    )
    return groups, lines


def _by_finding(rows: Mapping[str, Any]) -> tuple[Groups, Lines]:
    (row,) = rows.values()
    branches = row["branches"]
    header = ("AUC", "sd", "paper", "difference")
    groups: Groups = (
        ("", ("Finding",)),
        *((branch, header) for branch in branches),
        ("fusion − global", (*_INTERVAL, "p (Holm)")),
    )
    lines: list[tuple[str, ...]] = []
    for finding in branches["global"]["findings"]:
        cells = [_compared(of["findings"][finding]) for of in branches.values()]
        difference = row[f"{DIFFERENCE} by finding"][finding]
        p = p_text(difference["p_holm"])
        lines.append((finding, *sum(cells, ()), *_signed(difference), p))
    cells = [_compared(of) for of in branches.values()]
    lines.append(("Mean", *sum(cells, ()), *_signed(row[DIFFERENCE]), ""))
    return groups, tuple(lines)


def _by_row(name: str, rows: Mapping[str, Any]) -> tuple[Groups, Lines]:
    experiment = EXPERIMENTS[name]
    reference = experiment.reference
    shown = ("local", "fusion") if name == "tau" else BRANCHES
    more = ("validation",) if name == "tau" else ()
    header = ("AUC", "sd", "95 % interval", *more, "paper", "difference")
    groups: Groups = (
        ("", (experiment.what,)),
        *((branch, header) for branch in shown),
        ("fusion − global", _INTERVAL),
        *([(f"fusion − fusion of {reference}", _INTERVAL)] if reference else []),
    )
    lines = []
    for row, of_row in rows.items():
        cells: tuple[str, ...] = (row,)
        for branch in shown:
            of = of_row["branches"][branch]
            value, deviation, paper, difference = _compared(of)
            more = (number(of["validation"]),) if name == "tau" else ()
            cells += (value, deviation, _interval(of), *more, paper, difference)
        cells += _signed(of_row[DIFFERENCE])
        if reference:
            minus = of_row.get("minus reference")
            cells += _signed(minus["fusion"]) if minus else (DASH, DASH)
        lines.append(cells)
    return groups, tuple(lines)


def _compared(estimate: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Return cells for a value, its deviation between seeds, the paper's value, the difference."""
    value, paper = estimate["value"], estimate["paper"]
    difference = None if value is None or paper is None else value - paper
    return (
        number(value),
        number(estimate["deviation"]),
        number(paper),
        number(difference, sign="+"),
    )


def _interval(estimate: Mapping[str, Any]) -> str:
    return interval_text(estimate["interval"] and Interval(*estimate["interval"]))


def _signed(estimate: Mapping[str, Any]) -> tuple[str, str]:
    return number(estimate["value"], sign="+"), _interval(estimate)


def _notes(content: Mapping[str, Any], seeds: int) -> tuple[str, ...]:
    over = "training seeds and patients" if seeds > 1 else "patients alone, since there is one seed"
    notes = [
        f"AUC: means over the seeds of means over the findings; sd: between seeds. 95 % intervals: "
        f"over {over}; differences are paired by seed and patient."
    ]
    if content["experiment"] == BY_FINDING:
        notes.append(
            "Each interval is for its finding alone. Of many findings, some intervals exclude 0 by "
            "chance; Holm's p allows for that."
        )
    which = " where it has none of this backbone" if content["experiment"] == BY_FINDING else ""
    notes.append(
        f"Paper: Guan et al. 2018; the paper's numbers are ResNet-50's{which}, on ChestX-ray14, "
        f"split at random by image."
    )
    if content["experiment"] == "tau":
        notes.append(f"Of other thresholds the paper prints: {load_published()['tau']['note']}.")
    if content["synthetic"]:
        notes.append(
            "The images are synthetic: differences from the paper say nothing about either."
        )
    return tuple(notes)


def as_csv(content: Mapping[str, Any]) -> str:
    """Write all numbers in long form with full precision; cells are empty where none is known."""
    header = ["backbone", "row", "quantity", "finding", "value", "sd", "low", "high", "seeds"]
    rows = []
    for backbone, of_backbone in content["backbones"].items():
        for row, of_row in of_backbone["rows"].items():
            for quantity, finding, one in _numbers(of_row):
                spread = one.get("deviation"), *(one.get("interval") or (None, None))
                cells = one["value"], *spread, one.get("seeds"), one.get("paper")
                rows.append((backbone, row, quantity, finding, *cells))
    return csv_text([*header, "paper"], rows)


def _numbers(of_row: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield the quantity and the finding of each number of a row, and the number."""
    for branch, of in of_row["branches"].items():
        yield branch, "Mean", of
        yield f"{branch}, validation", "Mean", {"value": of["validation"]}
        yield from ((branch, finding, one) for finding, one in of["findings"].items())
        yield from ((f"{branch}, {size} lesions", "Mean", one) for size, one in of["sizes"].items())
    yield DIFFERENCE, "Mean", of_row[DIFFERENCE]
    for finding, one in of_row[f"{DIFFERENCE} by finding"].items():
        yield DIFFERENCE, finding, one
    for size, one in of_row[f"{DIFFERENCE} by size"].items():
        yield f"{DIFFERENCE}, {size} lesions", "Mean", one
    for branch, one in of_row.get("minus reference", {}).items():
        yield f"{branch} minus reference", "Mean", one
