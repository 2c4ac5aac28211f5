"""The report on NIH's files, and the checks of what it counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agcnn_jax.data_prep.prepare import shards
from agcnn_jax.data_prep.prepare.plans import Plan
from agcnn_jax.data_prep.prepare.publish import Outcome
from agcnn_jax.runtime.errors import UserError

# Reason for setting a file aside -> remedy if no file is usable.
REMEDIES = {
    shards.UNREADABLE: "download the images again",
    shards.NO_ROW: "name the table of these images with --labels",
    shards.WRONG_SIZE: "--image_size is {image_size}; choose one that fits the images",
    shards.CONFLICT: "keep one image of each name in --raw_dir",
}


def make_report(plan: Plan, outcome: Outcome) -> dict[str, Any]:
    """Return the content of `prepare_report.json`; `files_seen` = `written` + set aside."""
    set_aside = outcome.set_aside
    written = {record.entry.image_id for record in outcome.records}
    images = written | {entry.image_id for entry in set_aside}
    absent = [name for name in plan.context.rows if name not in images]
    counts = Counter(entry.reason for entry in set_aside)
    lists = {
        "absent_names": len(plan.official.keys() - written),
        "unlisted_images": len(written - plan.official.keys()),
    }
    return {
        "raw_dir": str(plan.context.folder),
        "tables": {kind: str(path) if path else None for kind, path in plan.tables.items()},
        "provenance": plan.collection.provenance,
        "image_size": plan.context.image_size,
        "box_size": plan.context.box_size,
        "files_seen": len(written) + len(set_aside),
        "written": len(written),
        "set_aside_counts": {reason: counts[reason] for reason in shards.REASONS},
        "set_aside": [entry._asdict() for entry in set_aside],
        "official_lists": lists if plan.official else None,
        "label_rows": len(plan.context.rows),
        "rows_without_image": {"count": len(absent), "image_ids": absent},
    }


def check_bad(report: dict[str, Any], max_bad: float, path: Path) -> None:
    """Check that some files were written and that few were set aside.

    Further copies of an image, as in an archive beside the folder that it was unpacked to, count
    neither as bad files nor as good ones.

    Args:
        report: from `make_report`.
        max_bad: largest accepted share of files set aside, 0 to 1.
        path: of the report file, for the message.

    Raises:
        UserError: too many files were set aside; gives their number, the reasons and an example.
    """
    bad = [entry for entry in report["set_aside"] if entry["reason"] != shards.DUPLICATE]
    files = report["written"] + len(bad)
    if not files:
        raise UserError(
            f"--raw_dir {report['raw_dir']}: the archives contain no *.png; give NIH's archives"
        )
    if not report["written"]:
        ((reason, count),) = Counter(entry["reason"] for entry in bad).most_common(1)
        first = next(entry for entry in bad if entry["reason"] == reason)
        raise UserError(
            f"none of the {files} files can be used: {count} for {reason}, such as {first['file']} "
            f"({first['detail']}); {REMEDIES[reason].format(**report)}; {path} lists them all"
        )
    if len(bad) > max_bad * files:
        raise UserError(
            f"{len(bad)} of {files} files cannot be used{_reasons(bad)}, more than "
            f"--max_bad {max_bad:g} allows, such as {bad[0]['file']} ({bad[0]['detail']}); {path} "
            "lists them all"
        )


def check_lists(plan: Plan, outcome: Outcome) -> None:
    """Raise `UserError` if there are official lists, and they name none of the images written."""
    images = [record.entry.image_id for record in outcome.records]
    if plan.official and plan.official.keys().isdisjoint(images):
        raise UserError(
            f"{plan.tables['train_val']} and {plan.tables['test']} name none of the "
            f"{len(images)} images; the lists begin with {next(iter(plan.official))!r}, the images "
            f"with {images[0]!r}; "
            "give the lists of these images with --lists, or remove the lists, and rerun to "
            "continue"
        )


def _reasons(set_aside: Sequence[Mapping[str, str]]) -> str:
    """Return the number of files set aside for each reason, in parentheses; empty if none."""
    counts = Counter(entry["reason"] for entry in set_aside)
    parts = [f"{counts[reason]} {reason}" for reason in shards.REASONS if counts[reason]]
    return f" ({', '.join(parts)})" if parts else ""


def summary(report: dict[str, Any]) -> str:
    """Return the report's counts as a phrase."""
    listed = report["official_lists"]
    lists = (
        f"names in the official lists without an image {listed['absent_names']}, "
        f"images in neither list {listed['unlisted_images']}"
        if listed
        else "no official lists"
    )
    return (
        f"written {report['written']} of {report['files_seen']} files, "
        f"set aside {len(report['set_aside'])}{_reasons(report['set_aside'])}, "
        f"label rows without an image {report['rows_without_image']['count']}, {lists}"
    )


def missing(report: dict[str, Any]) -> str | None:
    """Return a warning if images of the table of labels are not there; None if all are."""
    absent = report["rows_without_image"]["count"]
    if not absent:
        return None
    rows = report["label_rows"]
    return (
        f"WARNING: only {rows - absent:,} of the {rows:,} images of {report['tables']['labels']} "
        f"are in {report['raw_dir']}; the download is incomplete unless you left the others out: "
        f"get them, and prepare to another --data_dir"
    )
