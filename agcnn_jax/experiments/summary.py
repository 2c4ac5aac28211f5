"""The numbers of an experiment, over seeds and patients, beside the paper's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from agcnn_jax.evaluation.scoring.references import PAPER_SETTING, paper_rows
from agcnn_jax.experiments.plan import EXPERIMENTS
from agcnn_jax.experiments.result import CHANCE, DIFFERENCE, SIZES, RunResult
from agcnn_jax.metrics.paired_test import holm
from agcnn_jax.metrics.seeds import OverSeeds, SeedEstimate, auc_over_seeds, over_seeds
from agcnn_jax.models.agcnn import BRANCHES

Group = Mapping[str, Sequence[RunResult]]
"""The results of one backbone: per row of the experiment, one a seed."""

PAPER_BACKBONE = "resnet50"
"""The paper's other experiments were measured with it."""

BY_FINDING = "table1"
"""The experiment whose table has a row for each finding."""


def summarise(name: str, groups: Mapping[str, Group]) -> dict[str, Any]:
    """Return all numbers of an experiment, as its `table.json` holds them.

    Args:
        name: of the experiment.
        groups: the results of each backbone, by its name.
    """
    experiment = EXPERIMENTS[name]
    any_result = next(iter(next(iter(groups.values())).values()))[0].content
    return {
        "experiment": name,
        "title": experiment.title,
        **{key: any_result["data"][key] for key in ("provenance", "synthetic", "protocol")},
        "images": {subset: any_result[subset]["images"] for subset in ("validation", "test")},
        "patients": any_result["test"]["patients"],
        "backbones": {
            backbone: {
                "seeds": sorted({r.values["seed"] for of_row in group.values() for r in of_row}),
                "config": dict(next(iter(group.values()))[0].values),
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
    summary: dict[str, Any] = {
        "seeds": [result.values["seed"] for result in results],
        "branches": branches,
        DIFFERENCE: _subtracted(results, "fusion", results, "global"),
        f"{DIFFERENCE} by finding": _by_finding(results, branches["global"]["findings"]),
        f"{DIFFERENCE} by size": {
            s: _subtracted(results, f"fusion {s}", results, f"global {s}") for s in SIZES
        },
    }
    if name == BY_FINDING:
        summary["attention"] = _attention([r.content["attention"] for r in results])
    if reference and row != reference and reference in group:
        summary["minus reference"] = {
            estimate: _subtracted(results, estimate, group[reference], estimate)
            for branch in BRANCHES
            for estimate in (branch, *(f"{branch} {size}" for size in SIZES))
        }
    return summary


def _by_finding(results: Sequence[RunResult], findings: Iterable[str]) -> dict[str, Any]:
    """Average each finding's difference; correct its p value by Holm's method over the findings."""
    differences = {name: _estimated(results, f"{DIFFERENCE} {name}") for name in findings}
    adjusted = holm([one["p"] for one in differences.values()])
    for one, p in zip(differences.values(), adjusted, strict=True):
        one["p_holm"] = p
    return differences


def _findings(
    results: Sequence[RunResult], branch: str, paper: Mapping[str, Any]
) -> dict[str, Any]:
    findings = {}
    for finding in results[0].content["test"]["auc"][branch]:
        values = [result.auc(branch, finding) for result in results]
        known = [value for value in values if value is not None]
        findings[finding] = {
            "value": float(np.mean(known)) if known else None,
            "deviation": float(np.std(known, ddof=1)) if len(known) > 1 else None,
            "paper": paper[branch].auc.get(finding) if branch in paper else None,
        }
    return findings


def _attention(of_seeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Average each finding's share of images whose point lies in an annotated box.

    `above` counts the seeds in which the attended region is better than each kind of chance, with
    an interval over patients that excludes 0.
    """
    findings = of_seeds[0].get("images", {})
    return {
        finding: {
            "images": images,
            "pointing": {
                way: _mean([one["pointing"][way].get(finding, [None])[0] for one in of_seeds])
                for way in of_seeds[0]["pointing"]
            },
            "above": {
                way: sum(_is_above(one["attended minus"][way].get(finding)) for one in of_seeds)
                for way in CHANCE
            },
        }
        for finding, images in findings.items()
    }


def _is_above(difference: Sequence[float | None] | None) -> bool:
    """Tell whether the interval of a difference, its value and two ends, lies above 0."""
    low = difference[1] if difference else None
    return low is not None and low > 0


def _mean(values: Sequence[float | None]) -> float | None:
    return None if None in values else float(np.mean(values))  # type: ignore[arg-type]


def _estimated(
    results: Sequence[RunResult],
    name: str,
    combine: Callable[[Sequence[SeedEstimate]], OverSeeds] = over_seeds,
) -> dict[str, Any]:
    """Average an estimate of each seed."""
    return _average([r.estimates[name] for r in results if name in r.estimates], combine)


def _subtracted(
    results: Sequence[RunResult], name: str, others: Sequence[RunResult], other_name: str
) -> dict[str, Any]:
    """Average the difference of two estimates, paired by seed and by patient."""
    of_seed = {other.values["seed"]: other for other in others}
    differences = []
    for result in results:
        if other := of_seed.get(result.values["seed"]):
            pair = result.estimates.get(name), other.estimates.get(other_name)
            if pair[0] is not None and pair[1] is not None:
                differences.append(pair[0].minus(pair[1]))
    return _average(differences)


def _average(
    estimates: Sequence[SeedEstimate],
    combine: Callable[[Sequence[SeedEstimate]], OverSeeds] = over_seeds,
) -> dict[str, Any]:
    if not estimates:
        return {"value": None, "deviation": None, "interval": None, "seeds": 0, "p": None}
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
