"""Groups of images as tables for a reader and as rows of files."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from agcnn_jax.data.labels import findings_of
from agcnn_jax.data.text import csv_text
from agcnn_jax.evaluation.files.table import DASH, Table, as_markdown, ends, estimate_text
from agcnn_jax.evaluation.scoring.measures import Measures
from agcnn_jax.metrics.auc_table import FEW_PATIENTS
from agcnn_jax.metrics.interval import Estimate
from agcnn_jax.metrics.subgroups import MEAN, UNKNOWN, Subgroup

_SHARES = ("sensitivity", "specificity")
_DIFFERENCES = ("auc_difference", "sensitivity_difference", "specificity_difference")
_NOTES = (
    "A mean covers the findings that enough patients of every large enough group have, so the "
    "groups of an attribute can be compared. Intervals: 95 %, from each patient's influence "
    "(clustered DeLong).",
    "Differences are a group minus the largest group of its attribute, paired by patient: some "
    "patients have images in several groups. Their intervals are not adjusted for their number. "
    "Differences may come from other things that differ between groups, such as how ill patients "
    "are.",
)
_THRESHOLD_NOTE = (
    "Sensitivity and specificity are those at one threshold for all groups, by Youden's index."
)
_FILES_NOTE = "subgroups.csv and subgroup_differences.csv have each finding."


def means_table(measures: Measures) -> Table:
    """Build the table of mean AUCs, a row for each group and a column for each branch."""
    means = [one for one in measures.subgroups if one.finding == MEAN]
    branches = list(dict.fromkeys(one.branch for one in means))
    everything = findings_of(_labels(measures))
    rows = []
    for here in _by_group(means):
        first = here[branches[0]]
        count = f"{len(first.findings)} of {len(everything)}" if first.findings else DASH
        cells = [f"{first.attribute}: {first.group}", f"{first.images:,}", f"{first.patients:,}"]
        aucs = (Estimate(here[branch].auc, here[branch].interval) for branch in branches)
        rows.append((*cells, count, *map(estimate_text, aucs)))
    header = ("Group", "Images", "Patients", "Findings")
    return Table((("", header), ("mean AUC,", tuple(branches))), tuple(rows))


def differences_table(measures: Measures) -> Table:
    """Build the table of differences of mean AUCs, a row for each group but the largest."""
    means = [one for one in measures.comparisons if one.finding == MEAN]
    branches = list(dict.fromkeys(one.branch for one in means))
    rows = []
    for here in _by_group(means):
        first = here[branches[0]]
        if first.group == first.reference:
            continue
        name = f"{first.attribute}: {first.group} minus {first.reference}"
        count = f"{len(first.findings)}" if first.findings else DASH
        values = (estimate_text(here[branch].auc_difference, 3, "+") for branch in branches)
        rows.append((name, count, *values))
    groups = (("", ("Groups", "Findings")), ("difference of mean AUC,", tuple(branches)))
    return Table(groups, tuple(rows))


def findings_table(measures: Measures, attribute: str, branch: str) -> Table:
    """Build the table of one attribute and branch, a row for each finding and known group."""
    aucs = {(one.group, one.finding): one for one in _of(measures.subgroups, attribute, branch)}
    missing = _missing(measures)
    rows = []
    for one in sorted(
        (one for one in _of(measures.comparisons, attribute, branch) if one.finding != MEAN),
        key=lambda one: _labels(measures).index(one.finding),
    ):
        auc = aucs[one.group, one.finding]
        counts = (*_known(auc, missing), auc.positive_patients)
        cells = [f"{one.finding}, {one.group}", *(f"{count:,}" for count in counts)]
        cells.append(estimate_text(Estimate(auc.auc, auc.interval)))
        cells.append(estimate_text(one.auc_difference, 3, "+"))
        for name in _SHARES:
            cells.append(estimate_text(getattr(one, name), 2))
            cells.append(estimate_text(getattr(one, f"{name}_difference"), 2, "+"))
        rows.append(tuple(cells))
    pair = ("value", "difference")
    known = ("Images with a known label",) if missing else ()
    groups = (("", ("Finding, group", *known, "Positive patients")), ("AUC", pair))
    return Table((*groups, *((name, pair) for name in _SHARES)), tuple(rows))


def notes(measures: Measures) -> list[str]:
    """Name the findings of each mean and the groups without one, and say how to read the tables."""
    everything = findings_of(_labels(measures))
    lines = []
    for attribute in dict.fromkeys(one.attribute for one in measures.subgroups):
        means = [one for one in measures.subgroups if one.finding == MEAN]
        of_group = {one.group: one for one in means if one.attribute == attribute}
        covered = next((one.findings for one in of_group.values() if one.findings), ())
        if covered and len(covered) < len(everything):
            lines.append(f"Means by {attribute} cover {_covered(covered, everything)}.")
        small = [
            f"{one.group} ({one.patients:,} patients, {one.images:,} images)"
            for one in of_group.values()
            if not one.findings and one.group != UNKNOWN
        ]
        if small:
            lines.append(
                f"Without a mean by {attribute}, since too few of its findings have "
                f"{FEW_PATIENTS} positive and {FEW_PATIENTS} negative patients: {', '.join(small)}."
            )
        branch = measures.subgroups[0].branch
        lines += [
            f"{one.group} minus {one.reference} covers {_covered(one.findings, everything)}."
            for one in _of(measures.comparisons, attribute, branch)
            if one.finding == MEAN and one.findings and one.findings != covered
        ]
    known = [_THRESHOLD_NOTE] if measures.calibration is not None else []
    return [*lines, *_NOTES, *known, _FILES_NOTE]


def markdown_parts(measures: Measures) -> list[str]:
    """Return headings, tables and notes as parts of a Markdown file; none without groups."""
    if not measures.subgroups:
        return []
    parts = ["## Mean AUC by group", as_markdown(means_table(measures)).strip()]
    differences = differences_table(measures)
    if differences.rows:
        title = "## Difference of mean AUC from the largest group"
        parts += [title, as_markdown(differences).strip()]
    return [*parts, *notes(measures)]


def subgroups_csv(measures: Measures) -> str:
    """Write a row for each group, branch and label, and for each group's mean.

    Where labels are missing, `known` counts the images with a known label.
    """
    header = ["attribute", "group", "images", "patients", "branch", "finding", "findings_in_mean"]
    missing = _missing(measures)
    header += ["known"] if missing else []
    rows = (
        (
            *(one.attribute, one.group, one.images, one.patients, one.branch, one.finding),
            len(one.findings) or None,
            *_known(one, missing),
            *(one.positives, one.positive_patients, one.auc),
            *ends(one.interval),
        )
        for one in measures.subgroups
    )
    return csv_text([*header, "positives", "positive_patients", "auc", "low", "high"], rows)


def differences_csv(measures: Measures) -> str:
    """Write a row for each known group, branch and label, and for each mean."""
    names = (*_SHARES, *_DIFFERENCES)
    header = ["attribute", "group", "reference", "branch", "finding", "findings_in_mean"]
    rows = []
    for one in measures.comparisons:
        cells = [one.attribute, one.group, one.reference, one.branch, one.finding]
        shares = [getattr(one, name) for name in names]
        numbers = [x for share in shares for x in (share.value, *ends(share.interval))]
        rows.append((*cells, len(one.findings) or None, *numbers))
    return csv_text([*header, *(f"{n}{end}" for n in names for end in ("", "_low", "_high"))], rows)


def difference_records(measures: Measures) -> list[dict[str, Any]]:
    """List the comparisons of groups for a JSON file."""
    return [
        {
            name: value._asdict() if isinstance(value, Estimate) else value
            for name in (field.name for field in dataclasses.fields(one))
            for value in (getattr(one, name),)
        }
        for one in measures.comparisons
    ]


def group_records(measures: Measures) -> list[dict[str, Any]]:
    """List the groups' AUCs for a JSON file."""
    unneeded = () if _missing(measures) else ("known",)
    return [
        {name: value for name, value in vars(one).items() if name not in unneeded}
        for one in measures.subgroups
    ]


def _missing(measures: Measures) -> bool:
    """Tell whether a label of an image is not known."""
    return any(one.known not in (None, one.images) for one in measures.subgroups)


def _known(one: Subgroup, missing: bool) -> tuple[int | None, ...]:
    return (one.known,) if missing else ()


def _labels(measures: Measures) -> list[str]:
    """List the labels of the groups' rows, in their order."""
    return list(dict.fromkeys(one.finding for one in measures.subgroups if one.finding != MEAN))


def _covered(findings: Sequence[str], everything: Sequence[str]) -> str:
    """Name the findings that a mean covers, or those that it leaves out if these are fewer."""
    count = f"{len(findings)} of {len(everything)} findings"
    missing = [one for one in everything if one not in findings]
    if len(missing) < len(findings):
        return f"{count}, all but {', '.join(missing)}" if missing else f"all {count}"
    return f"{count}: {', '.join(findings)}"


def _by_group(rows: Iterable[Any]) -> list[dict[str, Any]]:
    """Group rows of all branches by their group of images."""
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    for one in rows:
        groups.setdefault((one.attribute, one.group), {})[one.branch] = one
    return list(groups.values())


def _of(rows: Iterable[Any], attribute: str, branch: str) -> list[Any]:
    return [one for one in rows if (one.attribute, one.branch) == (attribute, branch)]
