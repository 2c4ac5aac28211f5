"""`prepare_report.json`: what became of every file, and whether too many are bad."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from agcnn_jax.runtime.errors import UserError
from data_prep.nih import shards
from data_prep.nih.plans import Plan
from data_prep.nih.publish import Outcome

REPORT = "prepare_report.json"
# Why a file is set aside -> what to do when all are.
REMEDIES = {
    shards.UNREADABLE: "download the images again",
    shards.NO_ROW: "name the table of these images with --labels",
    shards.WRONG_SIZE: "--image_size is {image_size}; choose one that fits the images",
    shards.DUPLICATE: "check --raw_dir",
    shards.CONFLICT: "keep one image of each name in --raw_dir",
}


def make_report(plan: Plan, outcome: Outcome) -> dict[str, Any]:
    """Return what `prepare_report.json` holds: `files_seen` = `written` + set aside."""
    set_aside = outcome.set_aside
    written = {record.entry.image_id for record in outcome.records}
    seen = written | {entry.image_id for entry in set_aside}
    absent = [name for name in plan.context.labels if name not in seen]
    counts = Counter(entry.reason for entry in set_aside)
    return {
        "raw_dir": str(plan.context.raw_dir),
        "tables": {
            field: str(path) if path else None for field, path in plan.tables._asdict().items()
        },
        "provenance": plan.provenance,
        "image_size": plan.context.image_size,
        "box_size": plan.context.box_size,
        "files_seen": len(written) + len(set_aside),
        "written": len(written),
        "set_aside_counts": {reason: counts[reason] for reason in shards.REASONS},
        "set_aside": [entry._asdict() for entry in set_aside],
        "official_lists": {
            "absent_names": len(plan.official.keys() - written),
            "unlisted_images": len(written - plan.official.keys()),
        }
        if plan.official
        else None,
        "rows_without_image": {"count": len(absent), "image_ids": absent},
    }


def check_bad(report: dict[str, Any], max_bad: float, path: Path) -> None:
    """Refuse a run with nothing written or more than `max_bad` (0 to 1) of its files set aside.

    Raises:
        UserError: names how many, why, and the first; `path` is where all are listed.
    """
    bad, seen = report["set_aside"], report["files_seen"]
    if not seen:
        raise UserError(
            f"--raw_dir {report['raw_dir']}: the archives hold no *.png; give NIH's archives"
        )
    if not report["written"]:
        reason, count = max(report["set_aside_counts"].items(), key=lambda item: item[1])
        first = next(entry for entry in bad if entry["reason"] == reason)
        raise UserError(
            f"none of the {seen} files can be used: {count} for {reason}, as {first['file']} "
            f"({first['detail']}); {REMEDIES[reason].format(**report)}; all are listed in {path}"
        )
    if len(bad) > max_bad * seen:
        raise UserError(
            f"{len(bad)} of {seen} files cannot be used{reasons(report)}, more than "
            f"--max_bad {max_bad:g} allows; the first is {bad[0]['file']} ({bad[0]['detail']}); "
            f"all are listed in {path}"
        )


def reasons(report: dict[str, Any]) -> str:
    """Say how many files were set aside for which reason, in brackets; nothing if there is none."""
    counts = [f"{count} {reason}" for reason, count in report["set_aside_counts"].items() if count]
    return f" ({', '.join(counts)})" if counts else ""


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Write the report as JSON, whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    os.replace(part, path)
