"""Runs each process of a run on several hosts as a child, to say in one line why JAX ended it.

When a process is lost, JAX aborts the others in C++ with a stack trace (jax 0.10.2). Nothing inside
the process can catch that or change its exit status. The parent passes on all output and adds which
process was lost, and a status that tells a launcher to run the command again.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import json
import os
import re
import signal
import socket
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
"""Environment variable with the descriptor of the terminal's stderr in the child."""

_PARENT = "AGCNN_JAX_SUPERVISOR"
"""Environment variable with the process number of the parent."""

LOOPBACK = ("127.", "::1")
"""Start of the addresses by which a host reaches only itself."""

_HOSTS = "agcnn_jax hosts: "
_KEPT_LINES = 400
_PR_SET_PDEATHSIG = 1

_LAUNCHERS = (
    "SLURM_STEP_NODELIST",
    "OMPI_MCA_orte_hnp_uri",
    "TPU_WORKER_HOSTNAMES",
    "TPU_PROCESS_ADDRESSES",
)
"""Environment variables by which `jax.distributed.initialize` knows a launcher."""

# Log lines of the C++ below JAX, checked with jax 0.10.2.

_CHATTER = "[Gloo] Rank "
"""Start of the log lines about connections between CPU processes, which no user needs."""

_MESSAGE = re.compile(r"([IWEF])\d{4} [\d:.]+ +\d+ ([\w./-]+):\d+\] ")
"""The beginning of a message: severity (I, W, E, F), time, thread and source file."""

_ABOUT_PROCESSES = ("coordination_service", "client.h", "add_port")
"""Source files whose errors concern other processes."""

_FATAL = "JAX distributed service detected fatal errors"
"""JAX aborted this process because another one, or the coordinator, was lost."""

_PORT_TAKEN = "Failed to add port to server"
"""The coordinator could not listen at its port, after which JAX crashes."""

_LEADER_LOST = ("leader task", "Failed to send RPC", "CoordinationService/Heartbeat")


def is_needed(coordinator_address: str | None) -> bool:
    """Return True if this process may be one of several."""
    return bool(
        coordinator_address
        or any(name in os.environ for name in _LAUNCHERS)
        or util.find_spec("libtpu")
    )


def is_supervised() -> bool:
    """Return True in a child."""
    return _STDERR in os.environ


def run_supervised(coordinator_address: str | None, start_timeout: int) -> int:
    """Run this command again as a child, and wait for it.

    Returns:
        The child's exit status; 75 if it did not find the others in `start_timeout` seconds, if JAX
        ended it because another process was lost, or if SIGTERM ended it before there was anything
        to save.
    """
    child: subprocess.Popen[bytes] | None = None
    signals: list[int] = []
    hosts: list[str] = []

    def forward(number: int, frame: FrameType | None) -> None:
        signals.append(number)
        if child is None:
            return
        child.send_signal(number)
        if number == signal.SIGINT and not hosts:
            # C++ looks for the others and ignores Ctrl-C.
            child.send_signal(signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward)
    ours = os.dup(sys.stderr.fileno())
    child = subprocess.Popen(
        [sys.executable, *sys.orig_argv[1:]],
        env={**os.environ, _STDERR: str(ours), _PARENT: str(os.getpid())},
        pass_fds=(ours,),
        # Python writes to the terminal as usual, and the C++ below it to this pipe.
        stderr=subprocess.PIPE,
        # In its own group, Ctrl-C reaches the child only through `forward`.
        process_group=0,
    )
    if signals:  # while the child was being created
        child.terminate()
    assert child.stderr is not None
    lines: collections.deque[str] = collections.deque(maxlen=_KEPT_LINES)
    held: list[bytes] = []
    reader = threading.Thread(target=_pass_on, args=(child.stderr, ours, lines, held, hosts))
    reader.start()
    status = child.wait()
    # Python restores the default handlers while it exits; a signal would then change the status.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    reader.join()
    if status < 0 and hosts:
        os.write(ours, b"\n")  # A progress bar may be unfinished.
    if status == -signal.SIGTERM and signal.SIGINT in signals:
        say(INTERRUPTED)
        return INTERRUPTED_STATUS
    reason = explain(status, "".join(lines), hosts, coordinator_address, start_timeout)
    if reason is not None:
        say(reason)
        return TEMPORARY_STATUS
    os.write(ours, b"".join(held))
    return status if status >= 0 else 128 - status


def explain(
    status: int, log: str, hosts: Sequence[str], coordinator_address: str | None, start_timeout: int
) -> str | None:
    """Say why a child ended if it could not say so itself and may be started again.

    Args:
        status: as `subprocess` returns it, negative for signals.
        log: the last lines that the C++ below JAX wrote.
        hosts: the host of each process; empty if the child had not found the others.
        coordinator_address: where the child looked for them, if a flag says so.
        start_timeout: seconds for which it looked.
    """
    if status == -signal.SIGTERM:
        return NOTHING_SAVED
    if status == -signal.SIGABRT:
        if lost := lost_processes(log):
            where = dict(enumerate(f" on {host}" for host in hosts))
            names = " and ".join(f"process {i}{where.get(i, '')}" for i in lost)
            return (
                f"{names} of this run was lost (killed, or its host is gone or hangs); all "
                f"processes stop; run the same command again to continue from the last checkpoint"
            )
        if not hosts and _FATAL in log:
            return not_found(coordinator_address, start_timeout)
    # `cluster.join` cannot try a port that a launcher chose.
    if status < 0 and not hosts and _PORT_TAKEN in log:
        return "the coordinator's port is in use on this host; run the same command again"
    return None


def lost_processes(log: str) -> list[int]:
    """Return the numbers of the processes that JAX found lost; empty if there was another cause."""
    unhealthy = re.search(r"tasks are unhealthy[^:\n]*:\n((?:\S*?\d+\n)+)", log)
    if unhealthy:
        return sorted({int(re.findall(r"\d+", line)[-1]) for line in unhealthy[1].splitlines()})
    if _FATAL not in log:
        return []
    # Process 0 hosts the service through which the processes watch each other.
    if any(words in log for words in _LEADER_LOST):
        return [0]
    return sorted({int(task) for task in re.findall(r"task:(\d+)", log)})


def not_found(coordinator_address: str | None, start_timeout: int) -> str:
    """Return the message for processes that did not find each other."""
    here = [one for one in addresses(coordinator_address or "") if one.startswith(LOOPBACK)]
    own = f", which is {here[0]} here, the address of each host itself" if here else ""
    return (
        f"not all processes of the run met at {coordinator_address or 'the coordinator'}{own} "
        f"within {start_timeout} s; start all of them, with a --coordinator_address that all can "
        f"reach, and run the same command again"
    )


def addresses(coordinator_address: str) -> list[str]:
    """Resolve the host of HOST:PORT on this host; empty if that fails."""
    host = coordinator_address.rpartition(":")[0].strip("[]")
    if not host:
        return []
    with contextlib.suppress(OSError):
        return sorted({str(one[4][0]) for one in socket.getaddrinfo(host, None)})
    return []


def begin_supervised() -> None:
    """Set up a child: Python writes to the terminal, C++ to the parent, and both end together."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(os.environ[_PARENT]):
            os._exit(128 + signal.SIGKILL)  # The parent had ended before the request.
    sys.stderr = os.fdopen(int(os.environ[_STDERR]), "w", buffering=1)
    sys.stdout = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)


def tell_hosts(hosts: Iterable[str]) -> None:
    """Tell the parent on which host each process runs."""
    if is_supervised():
        os.write(2, f"{_HOSTS}{json.dumps(list(hosts))}\n".encode())


def _pass_on(
    source: IO[bytes],
    target: int,
    lines: collections.deque[str],
    held: list[bytes],
    hosts: list[str],
) -> None:
    """Copy what the child's C++ writes, but hold back in `held` what `explain` may say better."""
    holding = aborting = False
    for raw in source:
        line = raw.decode(errors="replace")
        if line.startswith(_HOSTS):
            hosts[:] = json.loads(line.removeprefix(_HOSTS))
            continue
        if line.startswith(_CHATTER):
            continue
        lines.append(line)
        if (message := _MESSAGE.match(line)) and not aborting:
            severity, file = message.groups()
            holding = severity in "EF" and file.startswith(_ABOUT_PROCESSES)
            aborting = holding and severity == "F"  # A stack trace follows.
        if holding:
            held.append(raw)
        else:
            os.write(target, raw)
