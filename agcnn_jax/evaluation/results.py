"""The files of an evaluation: scores, tables, predictions, boxes, figures and the report."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from agcnn_jax.evaluation.auc import comparison, table_text, tables
from agcnn_jax.evaluation.auc.table_one import Subset, table_one, table_one_csv
from agcnn_jax.evaluation.figures.drawing import draw_figures
from agcnn_jax.evaluation.figures.panels import Films
from agcnn_jax.evaluation.files.csv_table import IMAGE_COLUMN
from agcnn_jax.evaluation.files.predictions import write_predictions
from agcnn_jax.evaluation.findings.agreement_tables import Agreed
from agcnn_jax.evaluation.findings.measure_files import write_measures
from agcnn_jax.evaluation.findings.measure_tables import thresholds_note
from agcnn_jax.evaluation.localisation.localisation_tables import localisation_markdown
from agcnn_jax.evaluation.localisation.localisation_values import (
    localisation_csv,
    localisation_json,
)
from agcnn_jax.evaluation.report import report
from agcnn_jax.evaluation.results_directory import SCORES, replace_directory
from agcnn_jax.evaluation.scoring.cohort import Cohort
from agcnn_jax.evaluation.scoring.flow import FlowRow
from agcnn_jax.evaluation.scoring.localisation import Localisation, note
from agcnn_jax.evaluation.scoring.measures import measure
from agcnn_jax.evaluation.scoring.scored import ScoredImages
from agcnn_jax.evaluation.scoring.validation import NOT_VALIDATED, Validated
from agcnn_jax.metrics.auc_table import BranchAUC, Mean, auc_table, paired_difference
from agcnn_jax.run import lineage
from agcnn_jax.run.lineage import Overlap
from agcnn_jax.runtime.errors import UserError


def write_results(
    directory: str | os.PathLike[str],
    scored: ScoredImages,
    cohort: Cohort,
    *,
    films: Films | None = None,
    localisation: Localisation | None = None,
    flow: Sequence[FlowRow] = (),
    subsets: Sequence[Subset] = (),
    settings: Mapping[str, Any] | None = None,
    seen: lineage.Lineage | None = None,
    weights: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    validated: Validated = NOT_VALIDATED,
    compared: tuple[str, str] | None = None,
    agreed: Agreed | None = None,
    copies: bool = True,
    digits: int = 3,
) -> tables.Table:
    """Score a split and write `auc.json`, tables, predictions, boxes, figures and the report.

    Args:
        directory: the folder to write or replace, `<workdir>/eval/<split>`, on a disk or in an
            object store; see `replace_directory`.
        scored: the images, their labels and predictions.
        cohort: describes the images; see `describe_cohort`.
        films: examples of the attention for the report; None leaves them out.
        localisation: where the run looked; its files are written if it has boxes.
        flow: how many images there were at each step, for the report.
        subsets: who is in each subset, for Table 1; empty leaves it out.
        settings: the run's, for the report.
        seen: what the run was trained on, to lie beside its predictions.
        weights: per branch, the digest of the weights that made the predictions; None if not known.
        notes: lines about the model, for below the table.
        validated: what validation images chose.
        compared: two models whose differences the table tests; fusion and global always have their
            `comparison.csv`.
        agreed: the predictions and NIH's labels against radiologists, whose labels `scored` has.
        copies: write the predictions.
        digits: of the AUCs in the table.

    Returns:
        The table.

    Raises:
        UserError: if a logit is not finite or the folder cannot be written.
        ValueError: if shapes disagree.
    """
    labels = scored.labels
    _refuse_diverged(scored, cohort.split)
    results = auc_table(
        scored.label_matrix,
        scored.ranked,
        labels=labels,
        findings=scored.findings,
        patient_ids=scored.patient_ids,
    )
    measures = measure(scored, *validated)
    table = tables.build_table(results, cohort, digits)
    if agreed:
        notes = (*notes, "Against radiologists, all sets pooled; agreement.csv has each set apart.")
    if localisation is not None:
        notes = (*notes, note(localisation))
    table = dataclasses.replace(table, below=(*notes, *table.below, thresholds_note(measures)))
    if compared:
        table = comparison.with_differences(table, results)
    elif {"fusion", "global"} <= set(results):
        compared = ("fusion", "global")
    drawn = draw_figures(scored, results, measures, cohort, films, localisation)
    content = report.Content(
        *(table, cohort, results, measures, drawn, localisation, flow, settings or {}),
        agreed=agreed and agreed.table,
        table_one=table_one(subsets) if subsets else None,
    )
    page = report.render_report(content)
    scores = {**_scores(results, cohort), "images_digest": cohort.images_digest}
    scores["weights"] = weights and dict(weights)
    with replace_directory(directory) as folder:
        text = json.dumps(scores, indent=1, ensure_ascii=False, allow_nan=False)
        (folder / SCORES).write_text(text + "\n", encoding="utf-8")
        (folder / "auc.csv").write_text(tables.as_csv(results, cohort), encoding="utf-8")
        if compared:
            differences = comparison.compare_models(*(results[name] for name in compared))
            text = comparison.as_csv(*compared, differences)
            (folder / "comparison.csv").write_text(text, encoding="utf-8")
        if content.table_one:
            (folder / "table1.csv").write_text(table_one_csv(subsets), encoding="utf-8")
            text = table_text.as_markdown(content.table_one)
            (folder / "table1.md").write_text(text, encoding="utf-8")
        if agreed:
            (folder / "agreement.csv").write_text(agreed.csv, encoding="utf-8")
            text = table_text.as_markdown(agreed.table)
            (folder / "agreement.md").write_text(text, encoding="utf-8")
        (folder / "auc.md").write_text(table_text.as_markdown(table), encoding="utf-8")
        write_measures(folder, measures, results, cohort)
        for branch, probabilities in scored.probabilities.items() if copies else ():
            logits = scored.logits.get(branch)
            path = folder / f"predictions_{branch}.csv"
            write_predictions(path, scored.image_ids, labels, probabilities, logits)
        if seen is not None:
            lineage.write(epath.Path(folder), seen, None)
        if scored.boxes is not None:
            _write_boxes(folder / "boxes.csv", scored.image_ids, scored.boxes)
        if localisation is not None and localisation.counts:
            _write_localisation(folder, localisation, cohort)
        for name, data in drawn.items():
            (folder / name).write_bytes(data)
        (folder / "report.html").write_text(page, encoding="utf-8")
    return table


def _refuse_diverged(scored: ScoredImages, split: str | None) -> None:
    for branch, matrix in scored.ranked.items():
        columns = np.flatnonzero(~np.isfinite(matrix).all(axis=0))
        if len(columns):
            raise UserError(
                f"the {branch} branch gives NaN or infinity for {scored.labels[columns[0]]} on the "
                f"{split} split: its training diverged; train that stage again with a lower "
                f"learning rate"
            )


def _scores(results: Mapping[str, BranchAUC], cohort: Cohort) -> dict[str, Any]:
    """Return the content of `auc.json`; "auc" holds findings only, other labels are apart."""
    branches = {}
    for branch, scores in results.items():
        others = [label for label in scores.auc if label not in scores.findings]
        branches[branch] = {
            "auc": {finding: scores.auc[finding] for finding in scores.findings},
            "mean": scores.mean.value,
            "mean_interval": scores.mean.interval,
            "mean_of_frequent": _mean(scores.frequent_mean),
            "missing": list(scores.missing),
            "auc_not_in_mean": {label: scores.auc[label] for label in others},
            "interval": {finding: scores.intervals[finding] for finding in scores.findings},
        }
    facts = dataclasses.asdict(cohort)
    del facts["overlap"], facts["synthetic"]
    keep = ("split", "protocol", "images")
    return {
        **{key: facts.pop(key) for key in keep},
        "branches": branches,
        "fusion_minus_global": _difference(results),
        **facts,
        **_trained_on(cohort.overlap),
        "synthetic": cohort.synthetic,
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


def _write_boxes(path: Path, image_ids: Sequence[str], boxes: np.ndarray) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([IMAGE_COLUMN, "xmin", "ymin", "xmax", "ymax"])
        rows = np.asarray(boxes).tolist()
        writer.writerows([name, *box] for name, box in zip(image_ids, rows, strict=True))


def _write_localisation(folder: Path, localisation: Localisation, cohort: Cohort) -> None:
    scores = localisation_json(localisation, cohort)
    text = json.dumps(scores, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    (folder / "localisation.json").write_text(text, encoding="utf-8")
    table = localisation_csv(localisation, cohort)
    (folder / "localisation.csv").write_text(table, encoding="utf-8")
    text = localisation_markdown(localisation, cohort)
    (folder / "localisation.md").write_text(text, encoding="utf-8")
