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
from collections.abc import Iterable
from importlib import util
from types import FrameType
from typing import IO

from agcnn_jax.errors import TEMPORARY_STATUS, say

_STDERR = "AGCNN_JAX_SUPERVISED_STDERR"
"""Environment variable that holds a supervised child's own descriptor of stderr."""

_HOSTS = "agcnn_jax hosts: "
_CHATTER = "[Gloo] Rank "
"""How lines begin that say only that the connections between CPU processes are made."""

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


def run_supervised() -> int:
    """Run this very command again as a child, and wait for it.

    Returns:
        The child's exit status; 75 if JAX ended it because another process was lost.
    """
    ours = os.dup(sys.stderr.fileno())
    child = subprocess.Popen(
        [sys.executable, *sys.orig_argv[1:]],
        env={**os.environ, _STDERR: str(ours)},
        pass_fds=(ours,),
        # What Python writes goes to the terminal as ever; the C++ below it writes into the pipe.
        stderr=subprocess.PIPE,
        # Of a group of its own, so that Ctrl-C reaches it once: from here.
        process_group=0,
    )

    def forward(number: int, frame: FrameType | None) -> None:
        child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward)
    assert child.stderr is not None
    lines: collections.deque[str] = collections.deque(maxlen=_KEPT_LINES)
    hosts: list[str] = []
    reader = threading.Thread(target=_pass_on, args=(child.stderr, ours, lines, hosts))
    reader.start()
    status = child.wait()
    reader.join()
    os.close(ours)
    lost = lost_processes("".join(lines))
    if lost and status == -signal.SIGABRT:
        names = " and ".join(f"process {i}" + _on_host(hosts, i) for i in lost)
        say(
            f"{names} of this run was lost (killed, or its host is gone or hangs); all processes "
            f"stop; run the same command again to continue from the last checkpoint"
        )
        return TEMPORARY_STATUS
    return status if status >= 0 else 128 - status


def begin_supervised() -> None:
    """Settle in as a child: Python's output to the terminal, C++'s to the parent; end with it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
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
        if "leader task" in log or "Failed to send RPC to coordination service" in log:
            return [0]
        others = re.findall(r"task:(\d+)", log)
        return sorted({int(task) for task in others})
    return []


def _on_host(hosts: list[str], process: int) -> str:
    return f" on {hosts[process]}" if process < len(hosts) else ""


def _pass_on(
    source: IO[bytes], target: int, lines: collections.deque[str], hosts: list[str]
) -> None:
    for raw in source:
        line = raw.decode(errors="replace")
        if line.startswith(_HOSTS):
            hosts[:] = json.loads(line.removeprefix(_HOSTS))
            continue
        if line.startswith(_CHATTER):
            continue
        lines.append(line)
        os.write(target, raw)
