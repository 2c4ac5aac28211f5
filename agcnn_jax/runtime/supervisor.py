"""A parent process that says in one line why JAX ended a process of a run on several hosts.

JAX watches over the processes of a run: when one is lost, it aborts the others, in C++ and with a
stack trace (jax 0.10), where nothing in the process can catch it or change its exit status. The
parent that starts each process of such a run passes everything on, and adds what is missing: which
process was lost, and a status that tells a launcher to run the command again.
"""

from __future__ import annotations

import collections
import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from importlib import util
from types import FrameType
from typing import IO

from agcnn_jax.runtime.errors import (
    INTERRUPTED,
    INTERRUPTED_STATUS,
    NOTHING_SAVED,
    TEMPORARY_STATUS,
    say,
)

_STDERR = "AGCNN_JAX_SUPERVISED_STDERR"
"""Environment variable that holds a supervised child's own descriptor of stderr."""

_PARENT = "AGCNN_JAX_SUPERVISOR"
"""Environment variable that holds the process number of the parent."""

_HOSTS = "agcnn_jax hosts: "
_CHATTER = "[Gloo] Rank "
"""How lines begin that say only that the connections between CPU processes are made."""

_MESSAGE = re.compile(r"([IWEF])\d{4} [\d:.]+ +\d+ ([\w./-]+):\d+\] ")
"""How messages of the C++ below JAX begin: severity, and the source file that they come from."""

_LAST_WORDS = ("coordination_service", "client.h", "add_port")
"""Source files whose errors are about other processes; `explain` says the same in one line."""

_KEPT_LINES = 400
_PR_SET_PDEATHSIG = 1


_LAUNCHERS = (
    "SLURM_STEP_NODELIST",
    "OMPI_MCA_orte_hnp_uri",
    "TPU_WORKER_HOSTNAMES",
    "TPU_PROCESS_ADDRESSES",
)
"""Environment variables by which `jax.distributed.initialize` knows a launcher."""


def is_needed(coordinator_address: str | None) -> bool:
    """Whether this process may turn out to be one of several."""
    return bool(
        coordinator_address
        or any(name in os.environ for name in _LAUNCHERS)
        or util.find_spec("libtpu")
    )


def is_supervised() -> bool:
    """Whether this process is such a child."""
    return _STDERR in os.environ


def run_supervised(coordinator_address: str | None, start_timeout: int) -> int:
    """Run this very command again as a child, and wait for it.

    Args:
        coordinator_address: where the child looks for the others, if the flags say so.
        start_timeout: seconds that it does so.

    Returns:
        The child's exit status; 75 if it could not find the others, or JAX ended it because
        another process was lost, or SIGTERM ended it before there was anything to save.
    """
    child: subprocess.Popen[bytes] | None = None
    received: list[int] = []
    hosts: list[str] = []

    def forward(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if child is None:
            return
        child.send_signal(number)
        if number == signal.SIGINT and not hosts:
            # Looking for the others is C++, which Ctrl-C does not wake up.
            child.send_signal(signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward)
    ours = os.dup(sys.stderr.fileno())
    child = subprocess.Popen(
        [sys.executable, *sys.orig_argv[1:]],
        env={**os.environ, _STDERR: str(ours), _PARENT: str(os.getpid())},
        pass_fds=(ours,),
        # What Python writes goes to the terminal as ever; the C++ below it writes into the pipe.
        stderr=subprocess.PIPE,
        # Of a group of its own, so that Ctrl-C reaches it once: from here.
        process_group=0,
    )
    if received:
        # It came while the child was being made.
        child.terminate()
    assert child.stderr is not None
    lines: collections.deque[str] = collections.deque(maxlen=_KEPT_LINES)
    held: list[bytes] = []
    reader = threading.Thread(target=_pass_on, args=(child.stderr, ours, lines, held, hosts))
    reader.start()
    status = child.wait()
    # While Python ends it would give signals back to the system, which would take the status.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    reader.join()
    if status < 0 and hosts:
        # It may have been in the middle of a progress bar.
        os.write(ours, b"\n")
    if status == -signal.SIGTERM and signal.SIGINT in received:
        say(INTERRUPTED)
        return INTERRUPTED_STATUS
    reason = explain(status, "".join(lines), hosts, coordinator_address, start_timeout)
    if reason is None:
        os.write(ours, b"".join(held))
    os.close(ours)
    if reason is not None:
        say(reason)
        return TEMPORARY_STATUS
    return status if status >= 0 else 128 - status


def explain(
    status: int, log: str, hosts: Sequence[str], coordinator_address: str | None, start_timeout: int
) -> str | None:
    """Say why a child ended, where it could not say so itself and may be started again.

    Args:
        status: as `subprocess` returns it, negative for signals.
        log: the last of what the C++ below JAX wrote.
        hosts: of each process, if the child had found the others.
        coordinator_address: see `run_supervised`.
        start_timeout: see `run_supervised`.
    """
    if status == -signal.SIGTERM:
        return NOTHING_SAVED
    if status == -signal.SIGABRT:
        lost = lost_processes(log)
        if lost:
            names = " and ".join(f"process {i}" + _on_host(hosts, i) for i in lost)
            return (
                f"{names} of this run was lost (killed, or its host is gone or hangs); all "
                f"processes stop; run the same command again to continue from the last checkpoint"
            )
        if not hosts and "JAX distributed service detected fatal errors" in log:
            return not_found(coordinator_address, start_timeout)
    # Where a launcher chose the port, `cluster.join` cannot try it first; JAX 0.10 crashes.
    if status < 0 and not hosts and "Failed to add port to server" in log:
        return "the coordinator's port is in use on this host; run the same command again"
    return None


def not_found(coordinator_address: str | None, start_timeout: int) -> str:
    """Say that the other processes did not come."""
    return (
        f"not all processes of the run met at {coordinator_address or 'the coordinator'} within "
        f"{start_timeout} s; start all of them, with a --coordinator_address that all can reach, "
        f"and run the same command again"
    )


def begin_supervised() -> None:
    """Settle in as a child: Python's output to the terminal, C++'s to the parent; end with it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(os.environ[_PARENT]):
            os._exit(128 + signal.SIGKILL)  # it ended before this could be asked for
    sys.stderr = os.fdopen(int(os.environ[_STDERR]), "w", buffering=1)
    sys.stdout = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)


def tell_hosts(hosts: Iterable[str]) -> None:
    """Let the parent know on which host each process runs."""
    if is_supervised():
        os.write(2, f"{_HOSTS}{json.dumps(list(hosts))}\n".encode())


def lost_processes(log: str) -> list[int]:
    """Read from JAX's last words which processes it found lost; none if it was something else."""
    unhealthy = re.search(r"tasks are unhealthy[^:\n]*:\n((?:\S*?\d+\n)+)", log)
    if unhealthy:
        return sorted({int(re.findall(r"\d+", line)[-1]) for line in unhealthy[1].splitlines()})
    # Process 0 hosts the service over which the processes watch each other.
    if "JAX distributed service detected fatal errors" in log:
        unanswered = ("leader task", "Failed to send RPC", "CoordinationService/Heartbeat")
        if any(words in log for words in unanswered):
            return [0]
        others = re.findall(r"task:(\d+)", log)
        return sorted({int(task) for task in others})
    return []


def _on_host(hosts: Sequence[str], process: int) -> str:
    return f" on {hosts[process]}" if process < len(hosts) else ""


def _pass_on(
    source: IO[bytes],
    target: int,
    lines: collections.deque[str],
    held: list[bytes],
    hosts: list[str],
) -> None:
    """Copy what the child's C++ writes; keep in `held` what `explain` may say better."""
    holding = aborting = False
    for raw in source:
        line = raw.decode(errors="replace")
        if line.startswith(_HOSTS):
            hosts[:] = json.loads(line.removeprefix(_HOSTS))
            continue
        if line.startswith(_CHATTER):
            continue
        lines.append(line)
        message = _MESSAGE.match(line)
        if message and not aborting:
            severity, file = message.groups()
            holding = severity in "EF" and file.startswith(_LAST_WORDS)
            # What follows is a stack trace.
            aborting = holding and severity == "F"
        if holding:
            held.append(raw)
        else:
            os.write(target, raw)
