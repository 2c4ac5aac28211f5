"""Reports of benchmarks: the machine, the spread of rates, Markdown tables, and result files."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from agcnn_jax.runtime.errors import UserError

Row = dict[str, Any]


def processor() -> str:
    """Name the processor, or its architecture where Linux does not say more."""
    information = Path("/proc/cpuinfo")
    text = information.read_text() if information.exists() else ""
    name = re.search(r"model name\s*:\s*(.*)", text)
    return name[1] if name else platform.machine()


def describe_machine(*packages: str) -> dict[str, Any]:
    """Name the processor and the versions of Python and of these packages."""
    versions = {package: version(package) for package in packages}
    return {
        "machine": {"processor": processor(), "cores": os.cpu_count()},
        "versions": {"python": platform.python_version(), **versions},
    }


def spread(values: Sequence[float], digits: int = 1) -> dict[str, float]:
    """Return the median, the lowest and the highest value."""
    points = {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}
    return {name: round(value, digits) for name, value in points.items()}


def table(
    titles: Sequence[object], rows: Iterable[Sequence[object]], left: int | None = None
) -> str:
    """Make a Markdown table; columns after the first `left` are aligned to the right."""
    left = len(titles) if left is None else left
    rules = ["---"] * left + ["---:"] * (len(titles) - left)
    lines: list[Sequence[object]] = [titles, rules, *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def write_rows(path: Path, facts: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Write the facts that hold for all rows, and the rows, to a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")


def read_rows(path: Path | None, facts: Mapping[str, Any]) -> list[Row]:
    """Read the rows that an earlier call has written; none where there is no file.

    Raises:
        UserError: if other facts held for them, such as another version of jax.
    """
    if path is None or not path.exists():
        return []
    written = json.loads(path.read_text())
    rows: list[Row] = written.pop("rows")
    if written != facts:
        raise UserError(f"{path} was made with {written}; choose another file")
    return rows
