"""Reads the log lines of the C++ below JAX, checked with jax 0.10.2.

JAX aborts a process in C++ when another process is lost; its log alone tells which one.
"""

from __future__ import annotations

import re

_CHATTER = "[Gloo] Rank "
"""How a line begins that reports only the connections between CPU processes."""

_MESSAGE = re.compile(r"([IWEF])\d{4} [\d:.]+ +\d+ ([\w./-]+):\d+\] ")
"""How a message begins: severity, time, thread and source file."""

_ABOUT_PROCESSES = ("coordination_service", "client.h", "add_port")
"""Source files whose errors concern other processes."""

_FATAL = "JAX distributed service detected fatal errors"
_LEADER_LOST = ("leader task", "Failed to send RPC", "CoordinationService/Heartbeat")


def is_chatter(line: str) -> bool:
    """Return True for a line that no user needs."""
    return line.startswith(_CHATTER)


def severity_and_topic(line: str) -> tuple[str, bool] | None:
    """Return a message's severity (I, W, E, F) and whether it is an error about other processes.

    None if no message begins with this line.
    """
    if not (message := _MESSAGE.match(line)):
        return None
    severity, file = message.groups()
    return severity, severity in "EF" and file.startswith(_ABOUT_PROCESSES)


def is_fatal(log: str) -> bool:
    """Return True if JAX aborted the process because of another one, or of the coordinator."""
    return _FATAL in log


def port_was_taken(log: str) -> bool:
    """Return True if the coordinator could not listen at its port, after which JAX crashes."""
    return "Failed to add port to server" in log


def lost_processes(log: str) -> list[int]:
    """Return the numbers of the processes that JAX found lost; empty if there was another cause."""
    unhealthy = re.search(r"tasks are unhealthy[^:\n]*:\n((?:\S*?\d+\n)+)", log)
    if unhealthy:
        return sorted({int(re.findall(r"\d+", line)[-1]) for line in unhealthy[1].splitlines()})
    if not is_fatal(log):
        return []
    # Process 0 hosts the service through which the processes watch each other.
    if any(words in log for words in _LEADER_LOST):
        return [0]
    return sorted({int(task) for task in re.findall(r"task:(\d+)", log)})
