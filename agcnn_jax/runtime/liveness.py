"""Tells whether a process that is known by its number is still the same and alive, on Linux."""

from __future__ import annotations

import os
from pathlib import Path


def identity(process: int) -> list[str] | None:
    """Return what tells a process from all others; None if the system does not say.

    Hosts may share a name, containers number their own processes, and numbers are reused. So the
    identity is the boot of the machine, the namespace of the process and its start in ticks.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = os.readlink("/proc/self/ns/pid")
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name, in parentheses, may hold spaces. Fields 3 (state) and 22 (start) of proc(5) follow.
    fields = stat.rpartition(")")[2].split()
    return [boot, namespace, "ended" if fields[0] in "ZX" else fields[19]]


def has_ended(process: int | None, known: list[str] | None) -> bool:
    """Return True if a process has certainly ended; False if it may run, also on another machine.

    Args:
        process: its number.
        known: its `identity`, taken while it ran.
    """
    ours = identity(os.getpid())
    if process is None or not ours or not known or ours[:2] != known[:2]:
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False  # It belongs to another user, whose processes may be hidden.
    return identity(process) != known
