"""One training at a time in a workdir: `training.json` there names the process that trains.

The file is rewritten every quarter of `config.peer_timeout`. It is stale, and another training may
replace it, when it has not changed for `peer_timeout` or, on the same machine, as soon as its
process is dead. Clocks of different hosts are never compared: a waiting process watches the file.

A disk creates the file exclusively, so only one of two trainings gets it. Object stores cannot.
There, and when a stale file is replaced, a training writes its token, waits briefly and reads it
back; the last writer wins. A training that loses its file later stops at its next refresh.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etils import epath

from agcnn_jax.runtime import cluster
from agcnn_jax.runtime.errors import TEMPORARY_STATUS, Stopped, say
from agcnn_jax.runtime.preemption import StopRequest
from agcnn_jax.runtime.processes import from_primary, is_primary
from agcnn_jax.runtime.progress import write_line
from agcnn_jax.runtime.storage import create_json, is_remote, reported, write_json

FILE = "training.json"


@contextlib.contextmanager
def lock_workdir(
    workdir: epath.Path, timeout: float, stop_requested: StopRequest
) -> Iterator[None]:
    """Keep other trainings out of a workdir, created if missing. All processes call this.

    Raises `Stopped` if another training goes on for `timeout` seconds, or on request.
    """
    lock, ended = Lock(workdir / FILE, timeout), threading.Event()
    refresher = threading.Thread(target=lock.refresh, args=(ended,), daemon=True)
    try:
        lock.wait(stop_requested)
        if is_primary():
            refresher.start()
        yield
    finally:
        ended.set()
        if refresher.is_alive():
            refresher.join()
        # A failure here must not hide why the training ends; the file goes stale by itself.
        with contextlib.suppress(Exception):
            if is_primary() and lock.is_ours():
                lock.path.unlink()


class Lock:
    """The lock file, this process's entry for it, and another's at the last look."""

    def __init__(self, path: epath.Path, timeout: float):
        self.path, self.timeout, self.patience = path, timeout, timeout
        self.began = self.changed = float("inf")  # times of the first look and of the last change
        self.last: dict[str, Any] | None = None  # the file's entry at the last look
        self.entry: dict[str, Any] = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "since": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC",
            "peer_timeout": timeout,
            "identity": identity(os.getpid()),
            "token": uuid.uuid4().hex,
            "refreshed": 0,
        }

    def wait(self, stop_requested: StopRequest) -> None:
        """Take the lock as soon as no other training holds it; see `lock_workdir`."""
        told = not is_primary()
        while (refusal := from_primary(self.take)) is not None:
            holder, over = refusal
            text = f"{self.path.parent} is being trained by {holder}"
            if over:
                raise Stopped(f"{text}; end that, or choose another --workdir, and run this again")
            if stop_requested():
                raise Stopped(f"stopped while waiting for {holder}; nothing to save")
            if not told:
                write_line(f"{text}; waiting up to {self.patience:g} s", sys.stdout)
            told = True
            time.sleep(min(1.0, self.timeout / 20))

    def take(self) -> tuple[str, bool] | None:
        """Take the lock if it is free or stale; otherwise say who holds it, and if time is up."""
        remote = is_remote(self.path)
        remedy = None if remote else "make it writable, or choose another --workdir"
        with reported(self.path, "written", remedy):
            entry, now = self.read(), time.monotonic()
            self.began = min(self.began, now)
            if entry != self.last:
                self.last, self.changed = entry, now
            other = entry or {}
            self.patience = max(self.patience, other.get("peer_timeout", 0))  # the longer timeout
            stale = has_ended(other) or now - self.changed >= self.patience
            if entry is not None and stale:
                self.path.unlink(missing_ok=True)
            if (entry is None or stale) and create_json(self.path, self.entry):
                time.sleep(self.timeout / 60 if stale or remote else 0)
                if self.is_ours():
                    return None
            return name(other), now - self.began >= self.patience

    def refresh(self, ended: threading.Event) -> None:
        """Rewrite the file until `ended`; end this process if another training has taken it."""
        while not ended.wait(self.timeout / 4):
            # An object store that fails now may answer at the next refresh.
            with contextlib.suppress(Exception):
                if not self.is_ours():
                    say(
                        f"{self.path.parent} was taken over by {name(self.read() or {})} while "
                        "this training hung or was suspended; it stops and keeps its checkpoints"
                    )
                    cluster.leave(TEMPORARY_STATUS)
                self.entry["refreshed"] += 1
                write_json(self.path, self.entry)

    def read(self) -> dict[str, Any] | None:
        """Return the file's entry: None without a file, empty if the file is damaged."""
        try:
            entry: dict[str, Any] = json.loads(self.path.read_bytes())
            entry["peer_timeout"] = float(entry["peer_timeout"])
            entry["process"] = int(entry["process"])
            return entry
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError):
            return {}

    def is_ours(self) -> bool:
        """Return True if the file holds this process's entry."""
        return (self.read() or {}).get("token") == self.entry["token"]


def name(entry: dict[str, Any]) -> str:
    """Name the process of an entry."""
    if not entry:
        return "another training"
    return f"process {entry['process']} on {entry.get('host')}, since {entry.get('since')}"


def has_ended(entry: dict[str, Any]) -> bool:
    """Return True if an entry's process has certainly ended; it may run on another machine."""
    ours, known = identity(os.getpid()), entry.get("identity")
    if not ours or not known or ours[:2] != known[:2]:
        return False
    try:
        os.kill(entry["process"], 0)
    except OSError as error:
        return isinstance(error, ProcessLookupError)  # Another user's may be hidden.
    return identity(entry["process"]) != known


def identity(process: int) -> list[str] | None:
    """Return what tells a process from all others; None if the system, such as macOS, does not say.

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
