"""The report of an evaluation: a self-contained HTML page for a reader who was not there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agcnn_jax.evaluation.auc.aucs import aucs_table, paper, published
from agcnn_jax.evaluation.auc.table_one import table_one
from agcnn_jax.evaluation.figures.files import EXAMPLES
from agcnn_jax.evaluation.files.table import number, share_text
from agcnn_jax.evaluation.findings import subgroup_tables
from agcnn_jax.evaluation.findings.agreement_tables import agreement_table
from agcnn_jax.evaluation.findings.external_tables import (
    KEPT_NOTE,
    kept_in_words,
    kept_table,
    matches_table,
)
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
from agcnn_jax.evaluation.localisation.tables import localisation_tables
from agcnn_jax.evaluation.localisation.tables import notes as localisation_notes
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
from agcnn_jax.evaluation.report.summary import limits, subject, summary, versions
from agcnn_jax.evaluation.scoring.cohort import SYNTHETIC_NOTE, headline, leakage
from agcnn_jax.evaluation.scoring.evaluation import Evaluation
from agcnn_jax.evaluation.scoring.references import load_published


def files(evaluation: Evaluation, figures: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return `report.html`, in which `figures` are embedded."""
    return {"report.html": render_report(evaluation, figures).encode()}


def render_report(evaluation: Evaluation, figures: Mapping[str, bytes]) -> str:
    """Render the page as HTML; nothing is fetched, and a figure that is missing is left out."""
    cohort = evaluation.cohort
    model = "AG-CNN with " if "fusion" in evaluation.results else ""
    where = f"{cohort.collection}, " if evaluation.external else ""
    title = cohort.provenance
    if cohort.split:
        title = f"{model}{cohort.backbone}: {where}{cohort.subset}"
    warning = paragraphs([SYNTHETIC_NOTE if cohort.synthetic else None], "warn")
    lines = summary(evaluation.results, evaluation.measures, cohort)
    if evaluation.external:
        last = list(evaluation.results)[-1]
        lines = [evaluation.notes[0], *lines, *kept_in_words(last, evaluation)]
    head = warning + paragraphs(lines, "summary")
    sections = [
        Section("Images", "images", _images(evaluation)),
        *_agreement(evaluation),
        *_matches(evaluation),
        Section("AUC per finding", "auc", _aucs(evaluation)),
        *_published(evaluation),
        Section("ROC curves", "roc", _figure(figures, "roc") + _figure(figures, "roc_findings")),
        Section("Precision and recall", "precision", _precision(evaluation, figures)),
        *_kept(evaluation),
        Section("Operating points", "points", _points(evaluation)),
        Section("Calibration", "calibration", _calibration(evaluation, figures)),
        Section("Decision curves", "decisions", _decisions(evaluation, figures)),
        Section("Subgroups", "subgroups", _subgroups(evaluation)),
        *_localisation(evaluation, figures),
        *_examples(evaluation, figures),
        Section("Limits", "limits", bullets(limits(cohort, bool(evaluation.agreement)), "")),
        Section("Settings and versions", "settings", _settings(evaluation)),
    ]
    return page(title, head, sections, warning)


def _images(evaluation: Evaluation) -> str:
    cohort = evaluation.cohort
    flow = plain_table(
        ("Step", "Images", "Patients"),
        [
            (row.step, f"{row.images:,}", "" if row.patients is None else f"{row.patients:,}")
            for row in evaluation.flow
        ],
    )
    images = [name.capitalize() for name in cohort.count_names] if cohort.missing else ["Images"]
    prevalence = plain_table(
        ("Label", *images, "Prevalence", "Patients"),
        [
            (
                label,
                *(f"{count:,}" for count in cohort.counts(label)),
                share_text(cohort.prevalence(label)),
                f"{cohort.positive_patients[label]:,}",
            )
            for label in cohort.positives
        ],
    )
    lines = paragraphs([headline(cohort), leakage(cohort)])
    subsets = ""
    if evaluation.subsets:
        built = table_one(evaluation.subsets)
        subsets = table(built) + bullets(built.below)
        subsets = folded("Table 1: the subsets, with ages, sexes and views", subsets)
    return f"{lines}{flow if evaluation.flow else ''}{subsets}<h3>Labels</h3>{prevalence}"


def _agreement(evaluation: Evaluation) -> list[Section]:
    if not evaluation.agreement:
        return []
    agreed = agreement_table(evaluation.agreement, evaluation.cohort, evaluation.notes)
    return [Section("Each set", "agreement", table(agreed) + bullets(filter(None, agreed.below)))]


def _matches(evaluation: Evaluation) -> list[Section]:
    if not evaluation.matches:
        return []
    matched = matches_table(evaluation.matches)
    body = table(matched, "words") + bullets(matched.below)
    return [Section("Findings of the model and of the data", "matches", body)]


def _aucs(evaluation: Evaluation) -> str:
    built = aucs_table(evaluation)
    below = [line for line in built.below if line and line != SYNTHETIC_NOTE]
    return table(built, "auc") + bullets(below)


def _published(evaluation: Evaluation) -> list[Section]:
    cohort = evaluation.cohort
    rows, caution = published(cohort)
    papers = paper(list(evaluation.results), cohort).rows.values()
    if not rows and not papers:
        return []
    findings = tuple(load_published()["findings"])
    ours = [
        (f"this evaluation, {branch}", cohort.backbone or "", number(scores.mean.value), "")
        for branch, scores in evaluation.results.items()
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


def _precision(evaluation: Evaluation, figures: Mapping[str, bytes]) -> str:
    words = (
        "Grey lines show the prevalence, which is the precision of chance. Precision holds for "
        "this prevalence, not for a clinic with fewer findings."
    )
    return paragraphs([words]) + _figure(figures, "precision_recall")


def _kept(evaluation: Evaluation) -> list[Section]:
    if not evaluation.external:
        return []
    parts = [paragraphs([thresholds_note(evaluation.measures)])]
    for branch, shown in _last_first(evaluation.results):
        built = kept_table(branch, evaluation)
        part = f"<h3>{text(branch)}</h3>{table(built)}"
        parts.append(part if shown else folded(subject(branch), part))
    body = "".join(parts) + bullets([KEPT_NOTE])
    return [Section("The run's thresholds and calibration here", "kept", body)]


def _points(evaluation: Evaluation) -> str:
    measures = evaluation.measures
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


def _calibration(evaluation: Evaluation, figures: Mapping[str, bytes]) -> str:
    measures = evaluation.measures
    parts = [_figure(figures, "reliability")]
    for branch, shown in _last_first(evaluation.results):
        body = table(metrics_table(branch, measures, evaluation.results[branch], evaluation.cohort))
        body += folded("Intervals", table(intervals_table(branch, measures)))
        parts.append(f"<h3>{text(branch)}</h3>{body}" if shown else folded(subject(branch), body))
    return "".join(parts) + bullets((*METRICS_NOTES, INTERVALS_NOTE))


def _decisions(evaluation: Evaluation, figures: Mapping[str, bytes]) -> str:
    words = (
        "Net benefit at threshold probability t: true positives minus t / (1 - t) false positives, "
        "per image. A model is worth using where its curve lies above both grey lines: calling all "
        "images positive, and calling none positive."
    )
    return paragraphs([words]) + _figure(figures, "decisions")


def _subgroups(evaluation: Evaluation) -> str:
    measures = evaluation.measures
    if not measures.subgroups:
        return paragraphs(["Sex, age and view of these images are not known."])
    body = table(subgroup_tables.means_table(measures))
    body += "<h3>Difference from the largest group</h3>"
    body += table(subgroup_tables.differences_table(measures))
    body += bullets(subgroup_tables.notes(measures))
    last = list(evaluation.results)[-1]
    for attribute in dict.fromkeys(one.attribute for one in measures.comparisons):
        details = table(subgroup_tables.findings_table(measures, attribute, last))
        body += folded(f"Each finding by {attribute}, {last}", details)
    return body


def _localisation(evaluation: Evaluation, figures: Mapping[str, bytes]) -> list[Section]:
    where, cohort = evaluation.localisation, evaluation.cohort
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
        parts.append(_figure(figures, {0: "pointing", 1: "localisation"}.get(i, "")))
    body = "".join(parts) + bullets(localisation_notes(where, cohort))
    return [Section("Localisation", "localisation", body)]


def _examples(evaluation: Evaluation, figures: Mapping[str, bytes]) -> list[Section]:
    shown = [_figure(figures, kind, "jpeg") for kind in EXAMPLES]
    if not any(shown):
        return []
    known = " whose label is known" if evaluation.cohort.missing else ""
    words = paragraphs(
        (
            "A catch is the image that scores highest among those with a finding, a miss the one "
            "that scores lowest; shown are the best catches and the worst misses, each of another "
            "finding. They were chosen by this rule, not by eye.",
            "The solid blue box is the crop's, dashed yellow boxes are annotated. Bars: the ten "
            f"most probable findings{known}; those that the labels name are orange, with a dot.",
        )
    )
    return [Section("Best catches and worst misses", "examples", words + "".join(shown))]


def _settings(evaluation: Evaluation) -> str:
    settings = evaluation.model.settings if evaluation.model else {}
    given = "<h3>Settings</h3>" + settings_table(settings) if settings else ""
    return f"{given}<h3>Versions</h3>{settings_table(versions())}"


def _figure(figures: Mapping[str, bytes], name: str, kind: str = "png") -> str:
    data = figures.get(f"{name}.{kind}")
    return image(data, kind, name.replace("_", " ")) if data else ""


def _last_first(branches: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """List the last branch, which is shown, and then the others, which are folded."""
    names = list(branches)
    return [(name, i == 0) for i, name in enumerate([*names[-1:], *names[:-1]])]
