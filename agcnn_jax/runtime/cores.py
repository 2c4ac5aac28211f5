"""The CPU cores that this process may use."""

from __future__ import annotations

import os


def available_cores() -> int:
    """Return how many cores the scheduler lets this process use, at least 1.

    `os.cpu_count` counts those of the whole machine: under taskset, Slurm or a container's cpuset,
    that many threads would take turns on fewer cores.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
