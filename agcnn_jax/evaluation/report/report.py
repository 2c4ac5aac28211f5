"""The report of an evaluation: a self-contained HTML page for a reader who was not there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from agcnn_jax.evaluation.auc.tables import Table, number, paper
from agcnn_jax.evaluation.figures.drawing import EXAMPLES
from agcnn_jax.evaluation.findings import subgroup_tables
from agcnn_jax.evaluation.findings.measure_tables import (
    INTERVALS_NOTE,
    METRICS_NOTES,
    POINTS_NOTE,
    RULE_NAMES,
    intervals_table,
    metrics_table,
    points_table,
    thresholds_note,
)
from agcnn_jax.evaluation.localisation.localisation_tables import localisation_tables
from agcnn_jax.evaluation.localisation.localisation_tables import notes as localisation_notes
from agcnn_jax.evaluation.report.html_page import (
    Section,
    bullets,
    folded,
    image,
    page,
    paragraphs,
    plain_table,
    settings_table,
    table,
    text,
)
from agcnn_jax.evaluation.report.report_words import limits, subject, summary, versions
from agcnn_jax.evaluation.scoring.cohort import SYNTHETIC_NOTE, Cohort, headline, leakage
from agcnn_jax.evaluation.scoring.flow import FlowRow
from agcnn_jax.evaluation.scoring.localisation import Localisation
from agcnn_jax.evaluation.scoring.measures import Measures
from agcnn_jax.evaluation.scoring.references import load, published_on
from agcnn_jax.metrics.auc_table import BranchAUC


@dataclasses.dataclass(frozen=True)
class Content:
    """What a report shows.

    Attributes:
        table: the AUC table.
        cohort: the scored images.
        results: per branch or file, its AUCs.
        measures: everything else per finding.
        figures: see `draw_figures`; what is missing is left out.
        localisation: where the run looked; None if that is not known.
        flow: how many images there were at each step.
        settings: names and values of the run's settings; nested mappings are flattened with dots.
        agreed: the predictions and NIH's labels against radiologists; None for other labels.
        table_one: who is in each subset; None if not known.
    """

    table: Table
    cohort: Cohort
    results: Mapping[str, BranchAUC]
    measures: Measures
    figures: Mapping[str, bytes]
    localisation: Localisation | None = None
    flow: Sequence[FlowRow] = ()
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    agreed: Table | None = None
    table_one: Table | None = None


def render_report(content: Content) -> str:
    """Render the page as HTML; images are embedded and nothing is fetched."""
    cohort = content.cohort
    model = "AG-CNN with " if "fusion" in content.results else ""
    title = f"{model}{cohort.backbone}: {cohort.split} split" if cohort.split else cohort.provenance
    warning = paragraphs([SYNTHETIC_NOTE if cohort.synthetic else None], "warn")
    head = warning + paragraphs(summary(content.results, content.measures, cohort), "summary")
    sections = [
        Section("Images", "images", _images(content)),
        *_agreement(content),
        Section("AUC per finding", "auc", _aucs(content)),
        *_published(content),
        Section("ROC curves", "roc", _figure(content, "roc") + _figure(content, "roc_findings")),
        Section("Precision and recall", "precision", _precision(content)),
        Section("Operating points", "points", _points(content)),
        Section("Calibration", "calibration", _calibration(content)),
        Section("Decision curves", "decisions", _decisions(content)),
        Section("Subgroups", "subgroups", _subgroups(content)),
        *_localisation(content),
        *_examples(content),
        Section("Limits", "limits", bullets(limits(cohort, content.agreed is not None), "")),
        Section("Settings and versions", "settings", _settings(content)),
    ]
    return page(title, head, sections, warning)


def _images(content: Content) -> str:
    cohort = content.cohort
    flow = plain_table(
        ("Step", "Images", "Patients"),
        [
            (row.step, f"{row.images:,}", "" if row.patients is None else f"{row.patients:,}")
            for row in content.flow
        ],
    )
    prevalence = plain_table(
        ("Label", "Images", "Prevalence", "Patients"),
        [
            (
                label,
                f"{count:,}",
                f"{100 * count / cohort.images:.1f} %",
                f"{cohort.positive_patients[label]:,}",
            )
            for label, count in cohort.positives.items()
        ],
    )
    lines = paragraphs([headline(cohort), leakage(cohort)])
    subsets = ""
    if content.table_one is not None:
        subsets = table(content.table_one) + bullets(content.table_one.below)
        subsets = folded("Table 1: the subsets, with ages, sexes and views", subsets)
    return f"{lines}{flow if content.flow else ''}{subsets}<h3>Labels</h3>{prevalence}"


def _agreement(content: Content) -> list[Section]:
    agreed = content.agreed
    if agreed is None:
        return []
    return [Section("Each set", "agreement", table(agreed) + bullets(filter(None, agreed.below)))]


def _aucs(content: Content) -> str:
    below = [line for line in content.table.below if line and line != SYNTHETIC_NOTE]
    return table(content.table, "auc") + bullets(below)


def _published(content: Content) -> list[Section]:
    cohort = content.cohort
    trained_on = cohort.overlap is not None and cohort.overlap.images
    if cohort.synthetic or trained_on:
        return []
    rows, caution = published_on(cohort.split, cohort.protocol, cohort.images_digest)
    papers = paper(list(content.results), cohort).rows.values()
    if not rows and not papers:
        return []
    findings = tuple(load()["findings"])
    ours = [
        (f"this evaluation, {branch}", cohort.backbone or "", number(scores.mean.value), "")
        for branch, scores in content.results.items()
    ]
    theirs = [
        (
            f"{row.method}{'' if row.branch == 'classification' else f', {row.branch}'}",
            row.backbone,
            number(row.mean(findings)),
            row.source,
        )
        for row in (*papers, *rows)
    ]
    lines = paragraphs(
        ["Results on the same split; the paper's are of the same setting, too.", caution]
    )
    header = ("Method", "Backbone", "Mean AUC", "Source")
    shown = plain_table(header, [*ours, *theirs], "words")
    return [Section("Published results", "published", lines + shown)]


def _precision(content: Content) -> str:
    words = (
        "Grey lines show the prevalence, which is the precision of chance. Precision holds for "
        "this prevalence, not for a clinic with fewer findings."
    )
    return paragraphs([words]) + _figure(content, "precision_recall")


def _points(content: Content) -> str:
    measures = content.measures
    parts = [paragraphs([thresholds_note(measures)])]
    for branch, shown in _last_first(measures.operating_points):
        body = "".join(
            f"<h3>{text(branch)}: threshold by {name}</h3>"
            f"{table(points_table(branch, rule, measures))}"
            for rule, name in RULE_NAMES.items()
        )
        parts.append(body if shown else folded(subject(branch), body))
    if measures.operating_points:
        parts.append(bullets([POINTS_NOTE]))
    return "".join(parts)


def _calibration(content: Content) -> str:
    measures = content.measures
    parts = [_figure(content, "reliability")]
    for branch, shown in _last_first(content.results):
        body = table(metrics_table(branch, measures, content.results[branch], content.cohort))
        body += folded("Intervals", table(intervals_table(branch, measures)))
        parts.append(f"<h3>{text(branch)}</h3>{body}" if shown else folded(subject(branch), body))
    return "".join(parts) + bullets((*METRICS_NOTES, INTERVALS_NOTE))


def _decisions(content: Content) -> str:
    words = (
        "Net benefit at threshold probability t: true positives minus t / (1 - t) false positives, "
        "per image. A model is worth using where its curve lies above both grey lines: calling all "
        "images positive, and calling none positive."
    )
    return paragraphs([words]) + _figure(content, "decisions")


def _subgroups(content: Content) -> str:
    measures = content.measures
    if not measures.subgroups:
        return paragraphs(["Sex, age and view of these images are not known."])
    body = table(subgroup_tables.means_table(measures))
    body += "<h3>Difference from the largest group</h3>"
    body += table(subgroup_tables.differences_table(measures))
    body += bullets(subgroup_tables.notes(measures))
    last = list(content.results)[-1]
    for attribute in dict.fromkeys(one.attribute for one in measures.comparisons):
        details = table(subgroup_tables.findings_table(measures, attribute, last))
        body += folded(f"Each finding by {attribute}, {last}", details)
    return body


def _localisation(content: Content) -> list[Section]:
    where, cohort = content.localisation, content.cohort
    if where is None or not where.counts:
        return []
    total = where.total
    about = (
        f"{total.boxes:,} annotated boxes in {total.images:,} images of {total.patients:,} "
        f"patients, with tau {where.tau:g} and the statistic {where.statistic} of the heat map."
    )
    parts = [paragraphs([about])]
    for i, (title, shown) in enumerate(localisation_tables(where, cohort)):
        body = table(shown)
        parts.append(f"<h3>{title}</h3>{body}" if i < 2 else folded(title, body))
        parts.append(_figure(content, {0: "pointing", 1: "localisation"}.get(i, "")))
    body = "".join(parts) + bullets(localisation_notes(where, cohort))
    return [Section("Localisation", "localisation", body)]


def _examples(content: Content) -> list[Section]:
    shown = [_figure(content, kind, "jpeg") for kind in EXAMPLES]
    if not any(shown):
        return []
    words = paragraphs(
        (
            "A catch is the image that scores highest among those with a finding, a miss the one "
            "that scores lowest; shown are the best catches and the worst misses, each of another "
            "finding. They were chosen by this rule, not by eye.",
            "The solid blue box is the crop's, dashed yellow boxes are annotated. Bars: the ten "
            "most probable findings; those that the labels name are orange, with a dot.",
        )
    )
    return [Section("Best catches and worst misses", "examples", words + "".join(shown))]


def _settings(content: Content) -> str:
    given = "<h3>Settings</h3>" + settings_table(content.settings) if content.settings else ""
    return f"{given}<h3>Versions</h3>{settings_table(versions())}"


def _figure(content: Content, name: str, kind: str = "png") -> str:
    data = content.figures.get(f"{name}.{kind}")
    return image(data, kind, name.replace("_", " ")) if data else ""


def _last_first(branches: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """List the last branch, which is shown, and then the others, which are folded."""
    names = list(branches)
    return [(name, i == 0) for i, name in enumerate([*names[-1:], *names[:-1]])]
