"""The files of AUCs: `auc.json`, the table, the comparison of two models, and Table 1."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from agcnn_jax.evaluation.auc.aucs import aucs_csv, aucs_table
from agcnn_jax.evaluation.auc.comparison import comparison_csv
from agcnn_jax.evaluation.auc.table_one import table_one, table_one_csv
from agcnn_jax.evaluation.files.table import as_markdown, json_text
from agcnn_jax.evaluation.scoring.evaluation import Evaluation
from agcnn_jax.evaluation.scoring.matches import scored_pairs
from agcnn_jax.metrics.auc_table import BranchAUC, Mean, paired_difference
from agcnn_jax.run.lineage import Overlap

SCORES = "auc.json"
"""The file whose presence says that all other files of an evaluation are there."""


def files(evaluation: Evaluation) -> dict[str, bytes]:
    """Return the files' contents by name."""
    texts = {
        SCORES: json_text(scores(evaluation)),
        "auc.csv": aucs_csv(evaluation.results, evaluation.cohort),
        "auc.md": as_markdown(aucs_table(evaluation)),
    }
    if evaluation.pair:
        texts["comparison.csv"] = comparison_csv(*evaluation.pair, evaluation.differences)
    if evaluation.subsets:
        texts["table1.csv"] = table_one_csv(evaluation.subsets)
        texts["table1.md"] = as_markdown(table_one(evaluation.subsets))
    return {name: text.encode() for name, text in texts.items()}


def scores(evaluation: Evaluation) -> dict[str, Any]:
    """Return the content of `auc.json`; "auc" holds findings only, other labels are apart."""
    results, cohort = evaluation.results, evaluation.cohort
    branches = {}
    for branch, result in results.items():
        others = [label for label in result.auc if label not in result.findings]
        branches[branch] = {
            "auc": {finding: result.auc[finding] for finding in result.findings},
            "mean": result.mean.value,
            "mean_interval": result.mean.interval,
            "mean_of_frequent": _mean(result.frequent_mean),
            "missing": list(result.missing),
            "auc_not_in_mean": {label: result.auc[label] for label in others},
            "interval": {finding: result.intervals[finding] for finding in result.findings},
        }
    facts = dataclasses.asdict(cohort)
    del facts["overlap"], facts["synthetic"], facts["missing"], facts["collection"]
    if evaluation.matches:
        facts["collection"] = cohort.collection
        facts["labels"] = {pair.ours: pair.theirs for pair in scored_pairs(evaluation.matches)}
    keep = ("split", "protocol", "images")
    return {
        **{key: facts.pop(key) for key in keep},
        "branches": branches,
        "fusion_minus_global": _difference(results),
        **facts,
        **cohort.missing_labels,
        **_trained_on(cohort.overlap),
        "synthetic": cohort.synthetic,
        "weights": dict(evaluation.model.weights) if evaluation.model else None,
    }


def _trained_on(overlap: Overlap | None) -> dict[str, Any]:
    """Return both counts: lower bounds unless complete, and null instead of an uncertain 0."""
    if overlap is None:
        return {"trained_images": None, "shared_patients": None, "lineage_complete": False}
    comparable = overlap.complete and overlap.comparable
    return {
        "trained_images": overlap.images if overlap.images or overlap.complete else None,
        "shared_patients": overlap.patients if overlap.patients or comparable else None,
        "lineage_complete": overlap.complete,
    }


def _mean(mean: Mean) -> dict[str, Any]:
    return {"findings": list(mean.findings), "mean": mean.value, "interval": mean.interval}


def _difference(results: Mapping[str, BranchAUC]) -> dict[str, Any] | None:
    """Return fusion minus global, over all and over frequent findings; None without both."""
    if not {"global", "fusion"} <= set(results):
        return None
    first, second = results["fusion"], results["global"]
    mean = paired_difference(first.mean, second.mean) or (None, None)
    frequent = paired_difference(first.frequent_mean, second.frequent_mean) or (None, None)
    return {
        "mean": mean[0],
        "mean_interval": mean[1],
        "mean_of_frequent": {"mean": frequent[0], "interval": frequent[1]},
    }
