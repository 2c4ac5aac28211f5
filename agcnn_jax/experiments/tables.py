"""The table of an experiment: its numbers as plain values, as Markdown and as CSV."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agcnn_jax.evaluation.references import PAPER_SETTING, paper_rows
from agcnn_jax.evaluation.tables import DASH, Table, interval_text, number
from agcnn_jax.experiments.plan import EXPERIMENTS
from agcnn_jax.experiments.result import DIFFERENCE, SIZES, Result
from agcnn_jax.metrics.bootstrap import Interval
from agcnn_jax.metrics.seeds import Estimate, OverSeeds, auc_over_seeds, over_seeds
from agcnn_jax.models.agcnn import BRANCHES

Group = Mapping[str, Sequence[Result]]
"""The results of one backbone: per row of the experiment, one a seed."""

PAPER_BACKBONE = "resnet50"
"""The paper's other experiments were measured with it."""

BY_FINDING = "table1"
"""The experiment whose table has a row for each finding."""


def summarise(name: str, groups: Mapping[str, Group], provenance: str) -> dict[str, Any]:
    """Return all numbers of an experiment, as its `table.json` holds them.

    Args:
        name: of the experiment.
        groups: the results of each backbone, by its name.
        provenance: of the images.
    """
    experiment = EXPERIMENTS[name]
    any_result = next(iter(next(iter(groups.values())).values()))[0].content
    return {
        "experiment": name,
        "title": experiment.title,
        "provenance": provenance,
        "protocol": any_result["data"]["protocol"],
        "images": {subset: any_result[subset]["images"] for subset in ("validation", "test")},
        "patients": any_result["test"]["patients"],
        "backbones": {
            backbone: {
                "seeds": [result.values["seed"] for result in next(iter(group.values()))],
                "rows": {row: _summarise_row(name, backbone, row, group) for row in group},
            }
            for backbone, group in groups.items()
        },
    }


def _summarise_row(name: str, backbone: str, row: str, group: Group) -> dict[str, Any]:
    results, reference = group[row], EXPERIMENTS[name].reference
    paper = _paper(name, backbone, row)
    branches = {}
    for branch in results[0].branches:
        means = [result.mean(branch, "validation") for result in results]
        known = [mean for mean in means if mean is not None]
        branches[branch] = {
            **_estimated(results, branch, auc_over_seeds),
            "paper": paper[branch].mean_reported if branch in paper else None,
            "validation": sum(known) / len(known) if known else None,
            "sizes": {s: _estimated(results, f"{branch} {s}", auc_over_seeds) for s in SIZES},
            "findings": _findings(results, branch, paper),
        }
    found: dict[str, Any] = {
        "branches": branches,
        DIFFERENCE: _subtracted(results, "fusion", results, "global"),
        f"{DIFFERENCE} by finding": {
            finding: _estimated(results, f"{DIFFERENCE} {finding}")
            for finding in branches["global"]["findings"]
        },
        f"{DIFFERENCE} by size": {
            s: _subtracted(results, f"fusion {s}", results, f"global {s}") for s in SIZES
        },
    }
    if reference and row != reference and reference in group:
        found["minus reference"] = {
            estimate: _subtracted(results, estimate, group[reference], estimate)
            for branch in BRANCHES
            for estimate in (branch, *(f"{branch} {size}" for size in SIZES))
        }
    return found


def _findings(results: Sequence[Result], branch: str, paper: Mapping[str, Any]) -> dict[str, Any]:
    findings = {}
    for finding in results[0].content["test"]["auc"][branch]:
        values = [result.auc(branch, finding) for result in results]
        known = [value for value in values if value is not None]
        combined = over_seeds([Estimate(v, _NOBODY, None) for v in known]) if known else None
        findings[finding] = {
            "value": combined and combined.value,
            "deviation": combined and combined.deviation,
            "paper": paper[branch].auc.get(finding) if branch in paper else None,
        }
    return findings


_NOBODY: Any = ()


def _estimated(
    results: Sequence[Result],
    name: str,
    combine: Callable[[Sequence[Estimate]], OverSeeds] = over_seeds,
) -> dict[str, Any]:
    """Average an estimate of each seed."""
    return _average([one for r in results if (one := r.estimate(name)) is not None], combine)


def _subtracted(
    results: Sequence[Result], name: str, others: Sequence[Result], other_name: str
) -> dict[str, Any]:
    """Average the difference of two estimates, paired by seed and by patient."""
    of_seed = {other.values["seed"]: other for other in others}
    differences = []
    for result in results:
        if other := of_seed.get(result.values["seed"]):
            first, second = result.estimate(name), other.estimate(other_name)
            if first is not None and second is not None:
                differences.append(first.minus(second))
    return _average(differences, over_seeds)


def _average(
    estimates: Sequence[Estimate], combine: Callable[[Sequence[Estimate]], OverSeeds]
) -> dict[str, Any]:
    if not estimates:
        return {"value": None, "deviation": None, "interval": None, "seeds": 0}
    return combine(estimates)._asdict()


def _paper(name: str, backbone: str, row: str) -> dict[str, Any]:
    """Return the paper's row for each branch, of ResNet-50 where it has none of the backbone."""
    setting = PAPER_SETTING
    if name == "table2":
        setting = dataclasses.replace(setting, strategy=row)
    elif name == "table3":
        setting = dataclasses.replace(setting, statistic=row)
    elif name == "tau":
        setting = dataclasses.replace(setting, tau=float(row))
    elif name in ("control", "detail"):
        changes = EXPERIMENTS[name].rows[row]
        if changes.get("attention.crop_from", "input") != "input":
            return {}
        strategy, local_input = changes["strategy"], changes["local_input"]
        setting = dataclasses.replace(setting, strategy=strategy, local_input=local_input)
    of_backbone = backbone.split()[0] if name == BY_FINDING else PAPER_BACKBONE
    _, rows = paper_rows(of_backbone, setting)
    return rows or (paper_rows(PAPER_BACKBONE, setting)[1] if name == BY_FINDING else {})


def as_table(content: Mapping[str, Any], backbone: str) -> Table:
    """Lay out an experiment's table for one backbone."""
    name, of_backbone = content["experiment"], content["backbones"][backbone]
    seeds = of_backbone["seeds"]
    counted = f"{len(seeds)} seed{'s' * (len(seeds) != 1)} ({', '.join(map(str, seeds))})"
    above = (
        f"{content['title']}: {backbone}, {counted}; {content['images']['test']:,} test images of "
        f"{content['patients']:,} patients, {content['protocol']} protocol; "
        f"{content['provenance']}",
    )
    rows = of_backbone["rows"]
    groups, lines = (_by_finding if name == BY_FINDING else _by_row)(name, rows)
    summary = 1 if name == BY_FINDING else 0
    return Table(above, groups, lines, summary, _notes(content, len(seeds)))


def _by_finding(name: str, rows: Mapping[str, Any]) -> Any:
    (row,) = rows.values()
    branches = row["branches"]
    header = ("AUC", "sd", "paper", "difference")
    groups: list[tuple[str, tuple[str, ...]]] = [("", ("Finding",))]
    groups += [(branch, header) for branch in branches]
    groups.append(("fusion − global", ("AUC", "95 % interval")))
    lines = []
    for finding in branches["global"]["findings"]:
        cells = [_compared(of["findings"][finding]) for of in branches.values()]
        difference = row[f"{DIFFERENCE} by finding"][finding]
        lines.append((finding, *sum(cells, ()), *_signed(difference)))
    cells = [_compared(of) for of in branches.values()]
    lines.append(("Mean", *sum(cells, ()), *_signed(row[DIFFERENCE])))
    return tuple(groups), tuple(lines)


def _by_row(name: str, rows: Mapping[str, Any]) -> Any:
    experiment = EXPERIMENTS[name]
    shown = ("local", "fusion") if name == "tau" else BRANCHES
    groups: list[tuple[str, tuple[str, ...]]] = [("", (experiment.what,))]
    for branch in shown:
        more = ("validation",) if name == "tau" else ()
        groups.append((branch, ("AUC", "sd", "95 % interval", *more, "paper", "difference")))
    groups.append(("fusion − global", ("AUC", "95 % interval")))
    if experiment.reference:
        groups.append((f"fusion − fusion of {experiment.reference}", ("AUC", "95 % interval")))
    lines = []
    for row, found in rows.items():
        cells: tuple[str, ...] = (row,)
        for branch in shown:
            of = found["branches"][branch]
            value, deviation, paper, difference = _compared(of)
            more = (number(of["validation"]),) if name == "tau" else ()
            cells += (value, deviation, _interval(of), *more, paper, difference)
        cells += _signed(found[DIFFERENCE])
        if experiment.reference:
            minus = found.get("minus reference")
            cells += _signed(minus["fusion"]) if minus else (DASH, DASH)
        lines.append(cells)
    return tuple(groups), tuple(lines)


def _compared(found: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Return cells for a value, its deviation between seeds, the paper's value, the difference."""
    value, paper = found["value"], found["paper"]
    difference = None if value is None or paper is None else value - paper
    return (
        number(value),
        number(found["deviation"]),
        number(paper),
        number(difference, sign="+"),
    )


def _interval(found: Mapping[str, Any]) -> str:
    return interval_text(found["interval"] and Interval(*found["interval"]))


def _signed(found: Mapping[str, Any]) -> tuple[str, str]:
    return number(found["value"], sign="+"), _interval(found)


def _notes(content: Mapping[str, Any], seeds: int) -> tuple[str, ...]:
    over = "training seeds and patients" if seeds > 1 else "patients alone, since there is one seed"
    notes = [
        f"AUC: means over the seeds of means over the findings; sd: between seeds. 95 % intervals: "
        f"over {over}; differences are paired by seed and patient."
    ]
    which = "the paper's numbers are ResNet-50's where it has none of this backbone"
    if content["experiment"] != BY_FINDING:
        which = "the paper's numbers are ResNet-50's"
    where = "on ChestX-ray14, split at random by image"
    notes.append(f"Paper: Guan et al. 2018; {which}, {where}.")
    if "synthetic" in content["provenance"]:
        notes.append(
            "The images are synthetic: differences from the paper say nothing about either."
        )
    return tuple(notes)


def as_csv(content: Mapping[str, Any]) -> str:
    """Write all numbers in long form with full precision; cells are empty where none is known."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["backbone", "row", "quantity", "finding", "value", "sd", "low", "high", "seeds", "paper"]
    )
    for backbone, of_backbone in content["backbones"].items():
        for row, found in of_backbone["rows"].items():

            def write(quantity: str, finding: str, one: Mapping[str, Any]) -> None:
                low, high = one.get("interval") or (None, None)
                writer.writerow(
                    [
                        *(backbone, row, quantity, finding),  # noqa: B023
                        *(one["value"], one["deviation"], low, high),
                        *(one.get("seeds"), one.get("paper")),
                    ]
                )

            for branch, of in found["branches"].items():
                write(branch, "Mean", of)
                write(
                    f"{branch}, validation", "Mean", {"value": of["validation"], "deviation": None}
                )
                for finding, one in of["findings"].items():
                    write(branch, finding, one)
                for size, one in of["sizes"].items():
                    write(f"{branch}, {size} lesions", "Mean", one)
            write(DIFFERENCE, "Mean", found[DIFFERENCE])
            for finding, one in found[f"{DIFFERENCE} by finding"].items():
                write(DIFFERENCE, finding, one)
            for size, one in found[f"{DIFFERENCE} by size"].items():
                write(f"{DIFFERENCE}, {size} lesions", "Mean", one)
            for branch, one in found.get("minus reference", {}).items():
                write(f"{branch} minus reference", "Mean", one)
    return text.getvalue()
