"""The report on films and rows, and what the command prints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agcnn_jax.data.tables.label_table import LabelTable
from agcnn_jax.data_prep.films.match import Match
from agcnn_jax.data_prep.prepare.plans import Plan
from agcnn_jax.data_prep.prepare.publish import Outcome
from agcnn_jax.data_prep.prepare.shards import NO_ROW, UNREADABLE
from agcnn_jax.runtime.errors import UserError


def table_lines(table: LabelTable) -> Iterator[str]:
    """Yield what the command says about a table: columns, cells of each label, notices."""
    patients = len(set(table.patients))
    yield f"{table.path}: {len(table.images):,} films of {patients:,} patients"
    yield f"roles: {', '.join(f'{role} {name!r}' for role, name in table.roles.items())}"
    yield f"labels: {', '.join(map(repr, table.taken)) or 'none'}"
    yield f"left out: {', '.join(map(repr, table.left_out)) or 'none'}"
    width = max(map(len, ("label", *table.labels)))
    yield f"{'label':{width}}  positive  negative  uncertain     blank"
    for label in table.labels:
        positives, negatives, uncertain, blank = table.counts[label]
        yield f"{label:{width}}  {positives:8}  {negatives:8}  {uncertain:9}  {blank:8}"
    yield from (f"notice: {notice}" for notice in table.notices)


def match_line(match: Match, table: LabelTable, images: Path) -> str:
    """Say how many rows have a film."""
    return (
        f"{len(match.row_of):,} of {len(table.images):,} rows have a film in {images}; rows "
        f"without a film {len(match.absent):,}, films without a row {len(match.strangers):,}"
    )


def make_report(
    plan: Plan, table: LabelTable, match: Match, outcome: Outcome, films: int
) -> dict[str, Any]:
    """Return the content of `prepare_report.json`.

    `rows` = `written` + absent + unreadable; `files_seen` = `written` + `set_aside_counts`.

    Args:
        plan: of this run.
        table: the rows.
        match: of rows and films.
        outcome: of decoding the films that have a row.
        films: number of films in the folder.
    """
    strangers = len(match.strangers)
    return {
        "images": str(plan.context.folder),
        "tables": {kind: str(path) for kind, path in plan.tables.items()},
        "collection": plan.collection.name,
        "provenance": plan.collection.provenance,
        "image_size": plan.context.image_size,
        "rows": len(table.images),
        "files_seen": films,
        "written": len(outcome.records),
        "set_aside_counts": {
            UNREADABLE: len(outcome.set_aside),
            NO_ROW: strangers,
            "left out by view": films - len(match.row_of) - strangers,
        },
        "rows_without_film": {
            "count": len(match.absent),
            "images": [table.images[row] for row in match.absent],
        },
        "films_without_row": {"count": strangers, "films": match.strangers},
        "unreadable_films": {
            "count": len(outcome.set_aside),
            "films": {entry.file: entry.detail for entry in outcome.set_aside},
        },
    }


def check_bad(report: dict[str, Any], max_bad: float, path: Path) -> None:
    """Check that few rows have no film that can be used, and few films no row.

    Args:
        report: from `make_report`.
        max_bad: largest accepted share of the rows, 0 to 1.
        path: of the report file, for the message.

    Raises:
        UserError: there are more, or no film can be decoded.
    """
    unreadable = report["unreadable_films"]["films"]
    bad = len(unreadable) + sum(
        report[kind]["count"] for kind in ("rows_without_film", "films_without_row")
    )
    if unreadable and (not report["written"] or bad > max_bad * report["rows"]):
        film, detail = next(iter(unreadable.items()))
        raise UserError(
            f"{len(unreadable)} films cannot be decoded, such as {film!r} ({detail}); with "
            f"{_others(report)} that is more than --max_bad {max_bad:g} of the {report['rows']} "
            f"rows; replace them, or raise --max_bad, and rerun to continue; {path} lists them all"
        )


def summary(report: dict[str, Any]) -> str:
    """Return the report's counts as a phrase."""
    unreadable = report["unreadable_films"]["count"]
    return (
        f"written {report['written']} of {report['rows']} rows, set aside {_others(report)}, "
        f"unreadable films {unreadable}"
    )


def _others(report: dict[str, Any]) -> str:
    return (
        f"rows without a film {report['rows_without_film']['count']}, films without a row "
        f"{report['films_without_row']['count']}"
    )
