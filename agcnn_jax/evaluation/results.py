"""Everything an evaluation leaves on disk, written so that no reader meets half of it."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from agcnn_jax.evaluation import figures, report, tables
from agcnn_jax.evaluation.cohort import SYNTHETIC_NOTE, Cohort, describe_cohort
from agcnn_jax.evaluation.overlap import SCORES
from agcnn_jax.evaluation.predictions import IMAGE_COLUMN, write_predictions
from agcnn_jax.evaluation.references import Setting
from agcnn_jax.metrics.auc_table import BranchAUC, Mean, auc_table, paired_difference
from agcnn_jax.metrics.bootstrap import RESAMPLES
from agcnn_jax.run.lineage import Overlap
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.storage import advice, is_remote, reported


def write_results(
    directory: str | os.PathLike[str],
    *,
    split: str,
    protocol: str,
    backbone: str,
    provenance: str,
    labels: Sequence[str],
    findings: Sequence[str],
    label_matrix: np.ndarray,
    probabilities: Mapping[str, np.ndarray],
    image_ids: Sequence[str],
    patient_ids: Sequence[Any] | np.ndarray,
    overlap: Overlap | None,
    setting: Setting | None = None,
    images_digest: str | None = None,
    boxes: np.ndarray | None = None,
    films: figures.Films | None = None,
    settings: Mapping[str, Any] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    width: int = 120,
) -> str:
    """Score a split and write `auc.json`, tables, predictions, boxes, the figure and the report.

    The files are written beside `directory` and take its place when all are there: whoever
    interrupts the evaluation keeps the previous results whole. In an object store, where folders
    cannot be renamed, the previous `auc.json` goes first and the new one comes last: where it is,
    all other files are of the same evaluation.

    Args:
        directory: where the results go, `<workdir>/eval/<split>`, on a disk or in an object
            store; what it held is replaced.
        split: the subset that was scored, such as "test".
        protocol: the split protocol, such as "official".
        backbone: as in the config, such as "densenet121".
        provenance: a sentence on where the images come from; the word "phantom" in it marks all
            outputs as synthetic.
        labels: names of the C columns.
        findings: those of `labels` that the mean is over.
        label_matrix: uint8 `[N, C]`, 0 or 1.
        probabilities: per branch, float32 `[N, C]`; the branches that are trained.
        image_ids: `[N]` names.
        patient_ids: `[N]`.
        overlap: how much of it the weights were trained on; None for weights that say nothing.
        setting: how they were trained, for the comparison with the paper; None if not known.
        images_digest: tells sets of scored images apart; see `Split.digests`.
        boxes: int32 `[N, 4]`, xmin, ymin, xmax, ymax, half-open, in pixels of the original image;
            None writes no `boxes.csv`.
        films: what to show of the attention in the report; None shows none.
        settings: of the run, for the report.
        resamples: of the bootstrap over patients.
        seed: of the bootstrap.
        width: of the terminal, in characters.

    Returns:
        The table to print.

    Raises:
        UserError: if there is no image or no branch, a probability is NaN, or the folder cannot be
            written.
        ValueError: if shapes disagree.
    """
    _check(split, labels, probabilities, len(image_ids))
    results = auc_table(
        label_matrix,
        probabilities,
        labels=labels,
        findings=findings,
        patient_ids=patient_ids,
        resamples=resamples,
        seed=seed,
    )
    cohort = describe_cohort(
        label_matrix,
        labels,
        patient_ids,
        split=split,
        protocol=protocol,
        backbone=backbone,
        provenance=provenance,
        overlap=overlap,
        setting=setting,
    )
    table = tables.build_table(results, cohort)
    roc = figures.encode(figures.roc_figure(label_matrix, probabilities, labels, results, cohort))
    films_jpeg = None
    if films is not None:
        title = SYNTHETIC_NOTE.split(":")[0] if cohort.synthetic else ""
        films_jpeg = figures.encode(figures.films_figure(films, title), "jpeg", dpi=100)
    page = report.render_report(table, cohort, results, roc, films_jpeg, settings or {})
    replacing = _replacing_remote if is_remote(directory) else _replacing
    scores = {**_scores(results, cohort), "images_digest": images_digest}
    with replacing(directory) as folder:
        text = json.dumps(scores, indent=1, ensure_ascii=False, allow_nan=False)
        (folder / SCORES).write_text(text + "\n", encoding="utf-8")
        (folder / "auc.csv").write_text(tables.as_csv(results, cohort), encoding="utf-8")
        (folder / "auc.md").write_text(tables.as_markdown(table), encoding="utf-8")
        for branch, matrix in probabilities.items():
            write_predictions(folder / f"predictions_{branch}.csv", image_ids, labels, matrix)
        if boxes is not None:
            _write_boxes(folder / "boxes.csv", image_ids, boxes)
        (folder / "roc.png").write_bytes(roc)
        (folder / "report.html").write_text(page, encoding="utf-8")
    return tables.as_text(table, width)


def _check(
    split: str, labels: Sequence[str], probabilities: Mapping[str, np.ndarray], images: int
) -> None:
    if not images:
        raise UserError(f"the {split} split has no images; choose another split or protocol")
    if not probabilities:
        raise UserError("no branch is trained yet; run train.py with the same config first")
    for branch, matrix in probabilities.items():
        columns = np.flatnonzero(np.isnan(matrix).any(axis=0))
        if len(columns):
            raise UserError(
                f"the {branch} branch gives NaN for {labels[columns[0]]} on the {split} split: its "
                "training diverged; train that stage again with a lower learning rate"
            )


def _scores(results: Mapping[str, BranchAUC], cohort: Cohort) -> dict[str, Any]:
    """The content of `auc.json`: the findings only under "auc", other labels apart."""
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
    del facts["overlap"]
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
    """Both counts; lower bounds unless complete, and null instead of a 0 that may be more."""
    if overlap is None:
        return {"trained_images": None, "shared_patients": None, "lineage_complete": False}
    counts = {"trained_images": overlap.images, "shared_patients": overlap.patients}
    return {
        **{key: count if count or overlap.complete else None for key, count in counts.items()},
        "lineage_complete": overlap.complete,
    }


def _mean(mean: Mean) -> dict[str, Any]:
    return {"findings": list(mean.findings), "mean": mean.value, "interval": mean.interval}


def _difference(results: Mapping[str, BranchAUC]) -> dict[str, Any] | None:
    """Fusion minus global over all findings and over the frequent ones; None without both."""
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


@contextlib.contextmanager
def _replacing_remote(directory: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a local folder whose files replace those of `directory` if the block succeeds."""
    remote = epath.Path(directory)
    with tempfile.TemporaryDirectory(prefix="agcnn-eval-") as temporary:
        yield Path(temporary)
        with reported(remote, "written"):
            (remote / SCORES).unlink(missing_ok=True)
            new = {path.name: path for path in Path(temporary).iterdir()}
            for old in list(remote.iterdir()) if remote.exists() else []:
                if old.name not in new:
                    old.unlink()
            for name in sorted(new, key=lambda name: name == SCORES):
                (remote / name).write_bytes(new[name].read_bytes())


@contextlib.contextmanager
def _replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a new folder that takes the place of the one at `path` if the block succeeds."""
    directory = Path(path).resolve()  # a link keeps pointing at the results
    new = directory.with_name(f".{directory.name}.new")
    old = directory.with_name(f".{directory.name}.old")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        if old.exists() and not directory.exists():
            old.rename(directory)  # a run was killed between the two renames below
        for leftover in (new, old):
            if leftover.exists():
                shutil.rmtree(leftover)
        new.mkdir()
        try:
            yield new
            if directory.exists():
                directory.rename(old)
            try:
                new.rename(directory)
            except BaseException:
                if old.exists() and not directory.exists():
                    old.rename(directory)
                raise
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"{directory}: the results cannot be written: {error.strerror or error}; "
            f"{advice(directory, error)}"
        ) from error
