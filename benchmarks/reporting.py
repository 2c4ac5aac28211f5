"""What the figures of a benchmark depend on, and how they are summed up."""

from __future__ import annotations

import os
import platform
import re
import statistics
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any


def describe_machine(*packages: str) -> dict[str, Any]:
    """Name the processor and the versions of Python and of these packages."""
    information = Path("/proc/cpuinfo")
    name = (
        re.search(r"model name\s*:\s*(.*)", information.read_text())
        if information.exists()
        else None
    )
    machine = {"processor": name[1] if name else platform.machine(), "cores": os.cpu_count()}
    versions = {package: version(package) for package in packages}
    return {"machine": machine, "versions": {"python": platform.python_version(), **versions}}


def spread(values: Sequence[float], digits: int = 1) -> dict[str, float]:
    """Return the median, the lowest and the highest value."""
    found = {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}
    return {name: round(value, digits) for name, value in found.items()}
