"""Tables of an external validation: which findings were scored, and what held of the thresholds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from agcnn_jax.data.text import csv_text
from agcnn_jax.evaluation.files.table import DASH, Table, as_markdown, ends, estimate_text, number
from agcnn_jax.evaluation.scoring.evaluation import Evaluation
from agcnn_jax.evaluation.scoring.matches import NAME, Match
from agcnn_jax.metrics.auc_table import FEW_PATIENTS
from agcnn_jax.metrics.interval import NO_ESTIMATE, Estimate
from agcnn_jax.metrics.operating_points import WANTED

PROMISES = {"sensitivity_0.9": "sensitivity", "specificity_0.9": "specificity"}
"""The share that was at least `WANTED` on the validation images, of each rule that has one."""

MATCHES_NOTE = (
    "Ours: the model's finding. Theirs: the label of the scored data. Relation: by the package's "
    "table of synonyms, where same is one finding under two names, part that ours is a part of "
    "theirs, and near that they are similar. A pair that is a part or near, or that the table does "
    "not have, is scored only where --map asks for it; one that is never the same is not scored."
)
KEPT_NOTE = (
    "Slope: 1 is right. Intercept: 0 is right. The thresholds are the run's own: on its validation "
    f"images each reached a sensitivity, or a specificity, of {WANTED} or more. The table shows "
    "what they reach on the scored images, and the other share at the same threshold. "
    f"{DASH} fewer than {FEW_PATIENTS} positive or negative patients here, or no threshold. "
    "Intervals: 95 %, over patients."
)


def matches_table(matches: Sequence[Match]) -> Table:
    """Build the table of all pairs, and of the findings and labels that are left out."""
    rows = [
        (one.ours or DASH, one.theirs or DASH, _relation(one), _scored(one), one.note or "")
        for one in matches
    ]
    header = ("Ours", "Theirs", "Relation", "Scored", "Note")
    return Table((("", header),), tuple(rows), below=(MATCHES_NOTE,))


def matches_csv(matches: Sequence[Match]) -> str:
    """Write a row for each pair, finding or label."""
    rows = (
        (one.ours, one.theirs, one.relation, _scored(one), "yes" if one.asked else "no", one.note)
        for one in matches
    )
    return csv_text(["ours", "theirs", "relation", "scored", "asked", "note"], rows)


def kept_table(branch: str, evaluation: Evaluation) -> Table:
    """Build the table of what holds of one branch's calibration and thresholds, by finding."""
    rows = []
    for finding, (slope, intercept, promised) in _kept(branch, evaluation).items():
        cells = [estimate_text(slope, 2), estimate_text(intercept, 2, "+")]
        for kept, other in promised.values():
            missed = None if kept.value is None else kept.value - WANTED
            cells += [estimate_text(kept, 2), number(missed, 2, "+"), estimate_text(other, 2)]
        rows.append((finding, *cells))
    groups = [("", ("Finding", "slope", "intercept"))]
    for share, second in (("sensitivity", "specificity"), ("specificity", "sensitivity")):
        name = f"threshold for a {share} of {WANTED}:"
        groups.append((name, (f"{share} here", f"minus {WANTED}", f"{second} here")))
    return Table(tuple(groups), tuple(rows), below=(KEPT_NOTE,))


def kept_in_words(branch: str, evaluation: Evaluation) -> list[str]:
    """Say what became of one branch's thresholds, a sentence for each rule that was measured."""
    lines = []
    rows = _kept(branch, evaluation).values()
    for rule, share in PROMISES.items():
        shares = [value for row in rows if (value := row.promised[rule][0].value) is not None]
        if shares:
            low, middle, high = np.quantile(shares, (0, 0.5, 1)).tolist()
            lines.append(
                f"At the run's thresholds for a {share} of {WANTED}, the {share} here is "
                f"{number(middle, 2)} in the median of {len(shares)} "
                f"finding{'s' * (len(shares) > 1)}, from {number(low, 2)} to {number(high, 2)}."
            )
    return lines


def kept_csv(evaluation: Evaluation) -> str:
    """Write the same for all branches, a row for each branch and finding, with full precision."""
    names = ["slope", "intercept"]
    for rule, share in PROMISES.items():
        names += [f"{rule}_{one}" for one in (share, _other(share))]
    header = ["branch", "finding"]
    header += [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
    rows = []
    for branch in evaluation.results:
        for finding, (slope, intercept, promised) in _kept(branch, evaluation).items():
            estimates = (slope, intercept, *itertools.chain(*promised.values()))
            cells = [x for one in estimates for x in (one.value, *ends(one.interval))]
            rows.append([branch, finding, *cells])
    return csv_text(header, rows)


def kept_markdown(evaluation: Evaluation) -> str:
    """Format the tables of all branches as Markdown, under headings."""
    parts = ["# The run's calibration and thresholds on another collection"]
    for branch in evaluation.results:
        parts += [f"## {branch}", as_markdown(kept_table(branch, evaluation)).strip()]
    return "\n\n".join(parts) + "\n"


class _Kept(NamedTuple):
    """A finding's calibration and, by the rules of `PROMISES`, its promised and its other share."""

    slope: Estimate
    intercept: Estimate
    promised: dict[str, tuple[Estimate, Estimate]]


def _kept(branch: str, evaluation: Evaluation) -> dict[str, _Kept]:
    """Return what was measured at a branch's own thresholds, by finding."""
    measures = evaluation.measures
    kept = {}
    for finding, metrics in measures.findings[branch].items():
        numbers = metrics.numbers if metrics else {}
        points = measures.operating_points.get(branch, {}).get(finding, {})
        promised = {}
        for rule, share in PROMISES.items():
            point = points.get(rule)
            promised[rule] = (
                (getattr(point, share), getattr(point, _other(share)))
                if point
                else (NO_ESTIMATE, NO_ESTIMATE)
            )
        slope, intercept = (numbers.get(name, NO_ESTIMATE) for name in ("slope", "intercept"))
        kept[finding] = _Kept(slope, intercept, promised)
    return kept


def _other(share: str) -> str:
    return "specificity" if share == "sensitivity" else "sensitivity"


def _scored(match: Match) -> str:
    return "yes" if match.scored else "no"


def _relation(match: Match) -> str:
    words = "the same name" if match.relation == NAME else match.relation
    words = words or ("not known" if match.scored else DASH)
    return f"{words}, asked for with --map" if match.asked else words
