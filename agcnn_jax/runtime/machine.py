"""Cores and memory that this machine gives the process."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from agcnn_jax.runtime.interrupt import hold_back

VARIABLE = "GLIBC_TUNABLES"
REQUEST = "glibc.malloc.hugetlb=1"
MODES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
"""Where Linux says whether it gives large pages always, on request (`madvise`) or never."""


def available_cores() -> int:
    """Return how many cores the scheduler lets this process use, at least 1.

    `os.cpu_count` counts those of the whole machine: under taskset, Slurm or a container's cpuset,
    that many threads would take turns on fewer cores.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def seconds_since_start() -> float | None:
    """Return the seconds since this process was started; None where Linux does not say."""
    try:
        stat = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name, in parentheses, may hold spaces; field 22 of proc(5) counts ticks since the boot.
    ticks = int(stat.rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def large_pages() -> dict[str, str]:
    """Return the environment that requests large pages; empty where that is no use, or is done."""
    try:
        on_request = "[madvise]" in MODES.read_text()
    except OSError:
        return {}
    return {VARIABLE: REQUEST} if on_request and VARIABLE not in os.environ else {}


def restart_with_large_pages() -> None:
    """Start this program again, as the same process, if it could have large pages and has not.

    A step allocates its activations anew, and Linux clears them page by page: with 2 MiB instead of
    4 KiB a page, training on CPUs is a fifth faster (`docs/performance.md`). The C library reads
    the request only when a program starts, so this belongs before anything else.
    """
    if environment := large_pages():
        os.environ.update(environment)
        hold_back()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
