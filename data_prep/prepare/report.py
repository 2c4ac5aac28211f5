"""`prepare_report.json`: what happened to every file."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.prepare.shards import REASONS

REPORT = "prepare_report.json"


def reasons_in_words(set_aside: Sequence[Mapping[str, str]]) -> str:
    """Return the number of files set aside for each reason, in parentheses; empty if none."""
    counts = Counter(entry["reason"] for entry in set_aside)
    parts = [f"{counts[reason]} {reason}" for reason in REASONS if counts[reason]]
    return f" ({', '.join(parts)})" if parts else ""


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Write the report as JSON, atomically."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    os.replace(part, path)
