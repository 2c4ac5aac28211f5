"""The files of an evaluation's measures: `metrics.csv`, `.md` and `.json`, and two more tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agcnn_jax.data.text import csv_text
from agcnn_jax.evaluation.files.table import as_markdown, ends, json_text
from agcnn_jax.evaluation.findings.agreement_tables import agreement_csv, agreement_table
from agcnn_jax.evaluation.findings.external_tables import (
    kept_csv,
    kept_markdown,
    matches_csv,
    matches_table,
)
from agcnn_jax.evaluation.findings.measure_tables import COUNTS, SHARES, metrics_markdown
from agcnn_jax.evaluation.findings.subgroup_tables import (
    difference_records,
    differences_csv,
    group_records,
    subgroups_csv,
)
from agcnn_jax.evaluation.scoring.cohort import Cohort
from agcnn_jax.evaluation.scoring.evaluation import Evaluation
from agcnn_jax.evaluation.scoring.measures import Measures
from agcnn_jax.metrics.auc_table import BranchAUC
from agcnn_jax.metrics.calibration import THRESHOLDS
from agcnn_jax.metrics.finding_metrics import MEASURES, QUANTILES, FindingMetrics
from agcnn_jax.metrics.interval import NO_ESTIMATE
from agcnn_jax.metrics.operating_points import OperatingPoint

_NO_QUANTILES = (None,) * (2 * len(QUANTILES))


def files(evaluation: Evaluation) -> dict[str, bytes]:
    """Return the files' contents by name; `operating_points.csv` needs thresholds.

    Where the data's labels are not the model's findings, `matched_findings` says what was scored.
    """
    measures, results, cohort = evaluation.measures, evaluation.results, evaluation.cohort
    texts = {
        "metrics.csv": metrics_csv(measures, results, cohort),
        "metrics.md": metrics_markdown(measures, results, cohort),
        "metrics.json": metrics_json(measures, results, cohort),
        "subgroups.csv": subgroups_csv(measures),
        "subgroup_differences.csv": differences_csv(measures),
    }
    if measures.calibration is not None:
        texts["operating_points.csv"] = operating_points_csv(measures)
    if evaluation.matches:
        texts["matched_findings.md"] = as_markdown(matches_table(evaluation.matches))
        texts["matched_findings.csv"] = matches_csv(evaluation.matches)
    if evaluation.external:
        texts["external_thresholds.md"] = kept_markdown(evaluation)
        texts["external_thresholds.csv"] = kept_csv(evaluation)
    if evaluation.agreement:
        texts["agreement.csv"] = agreement_csv(evaluation.agreement)
        table = agreement_table(evaluation.agreement, cohort, evaluation.notes)
        texts["agreement.md"] = as_markdown(table)
    return {name: text.encode() for name, text in texts.items()}


def metrics_csv(measures: Measures, results: Mapping[str, BranchAUC], cohort: Cohort) -> str:
    """Write a row for each branch and label; cells are empty where a measure is not known."""
    header = ["branch", "finding", *cohort.count_names, "positive_patients", "prevalence"]
    header += ["auc", "auc_low", "auc_high", *MEASURES, "platt_slope", "platt_intercept"]
    header += [f"{side}_{100 * q:02.0f}%" for side in ("positive", "negative") for q in QUANTILES]
    header += [f"{name}_{end}" for name in MEASURES for end in ("low", "high")]
    rows: list[Sequence[Any]] = []
    for branch, scores in results.items():
        for label, metrics in measures.findings[branch].items():
            platt = _platt(measures, branch, label) or (None, None)
            estimates = [metrics.numbers[name] if metrics else NO_ESTIMATE for name in MEASURES]
            rows.append(
                (
                    *(branch, label, *cohort.counts(label), cohort.positive_patients[label]),
                    cohort.prevalence(label),
                    scores.auc[label],
                    *ends(scores.intervals[label]),
                    *(one.value for one in estimates),
                    *platt,
                    *(metrics.positives + metrics.negatives if metrics else _NO_QUANTILES),
                    *(x for one in estimates for x in ends(one.interval)),
                )
            )
    return csv_text(header, rows)


def operating_points_csv(measures: Measures) -> str:
    """Write a row for each branch, label and rule, with both forms of the threshold."""
    header = ["branch", "finding", "rule", "threshold_logit", "threshold_probability", *COUNTS]
    header += [f"{share}{end}" for share in SHARES for end in ("", "_low", "_high")]
    rows: list[Sequence[Any]] = []
    for branch, of_label in measures.operating_points.items():
        for label, of_rule in of_label.items():
            for rule, point in of_rule.items():
                row: list[Any] = [branch, label, rule]
                if point is not None:
                    row += [*_thresholds(measures, point), *(getattr(point, c) for c in COUNTS)]
                    for share in (getattr(point, name) for name in SHARES):
                        row += [share.value, *ends(share.interval)]
                rows.append(row)
    return csv_text(header, rows)


def metrics_json(measures: Measures, results: Mapping[str, BranchAUC], cohort: Cohort) -> str:
    """Write all measures with their curves; null where one is not known."""
    calibration = measures.calibration
    chosen = calibration and {"images": calibration.images, "patients": calibration.patients}
    branches = {
        branch: {
            label: {
                "auc": scores.auc[label],
                "interval": scores.intervals[label],
                **_finding(metrics),
                "platt": _platt(measures, branch, label),
                "operating_points": {
                    rule: point and _point(measures, point)
                    for rule, point in _points(measures, branch, label).items()
                },
            }
            for label, metrics in measures.findings[branch].items()
        }
        for branch, scores in results.items()
    }
    record = {
        "images": cohort.images,
        "patients": cohort.patients,
        **cohort.missing_labels,
        "positives": cohort.positives,
        "positive_patients": cohort.positive_patients,
        "quantiles": QUANTILES,
        "decision_thresholds": THRESHOLDS.tolist(),
        "validation": chosen,
        "no_thresholds_because": None if calibration else measures.note,
        "branches": branches,
        "subgroups": group_records(measures),
        "subgroup_differences": difference_records(measures),
    }
    return json_text(record)


def _finding(metrics: FindingMetrics | None) -> dict[str, Any]:
    curve = ("decision_curve", "decision_curve_low", "decision_curve_high")
    if metrics is None:
        names = (*MEASURES, "intervals", "reliability", *curve, "positives", "negatives")
        return dict.fromkeys(names)
    reliability = {name: part.tolist() for name, part in metrics.reliability._asdict().items()}
    ends = zip(("observed_low", "observed_high"), metrics.reliability_interval, strict=True)
    benefit = (metrics.decision_curve, *metrics.decision_interval)
    return {
        **{name: one.value for name, one in metrics.numbers.items()},
        "intervals": {name: one.interval for name, one in metrics.numbers.items()},
        "reliability": reliability | {name: _list(part) for name, part in ends},
        **{name: _list(part) for name, part in zip(curve, benefit, strict=True)},
        "positives": metrics.positives,
        "negatives": metrics.negatives,
    }


def _points(measures: Measures, branch: str, label: str) -> Mapping[str, OperatingPoint | None]:
    return measures.operating_points.get(branch, {}).get(label, {})


def _point(measures: Measures, point: OperatingPoint) -> dict[str, Any]:
    logit, probability = _thresholds(measures, point)
    return {
        "threshold_logit": logit,
        "threshold_probability": probability,
        **{name: getattr(point, name) for name in COUNTS},
        **{name: getattr(point, name)._asdict() for name in SHARES},
    }


def _thresholds(measures: Measures, point: OperatingPoint) -> tuple[float | None, float]:
    """Return a threshold as a logit, None if only probabilities are known, and as a probability."""
    chosen = measures.calibration
    assert chosen is not None
    logit = point.threshold if chosen.of_logits else None
    return logit, chosen.probability(point.threshold)


def _platt(measures: Measures, branch: str, label: str) -> Any:
    choices = measures.calibration.branches[branch] if measures.calibration else {}
    return choices[label].platt if label in choices else None


def _list(values: np.ndarray) -> list[float | None]:
    """Return numbers as a list, with None where one is not known."""
    return [None if np.isnan(x) else x for x in values.tolist()]
