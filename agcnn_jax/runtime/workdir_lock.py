"""One training at a time in a workdir: a file there says who trains, and that it still does.

Two trainings in one workdir would delete each other's checkpoints. The file names the process that
trains, and is written again every quarter of `config.peer_timeout`. It is stale, and another
training may take it over, when it stays the same for `peer_timeout` or, on the same machine, as
soon as that process is dead. No clocks of two hosts are compared: whoever waits watches the file.

On a disk the file is created exclusively, so that one of two trainings gets it. Object stores (as
`etils` knows them) offer nothing like it: there, and where a stale file is taken over, a training
writes its own token, waits a little and reads it back; the last one that wrote goes on. If one is
held up between looking and writing for longer than the other waits, both go on, until the next
refresh shows one of them that the file is not its own. That one stops at once.
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
from typing import Any, NoReturn

from etils import epath

from agcnn_jax.runtime.errors import TEMPORARY_STATUS, Stopped, say
from agcnn_jax.runtime.preemption import StopRequest
from agcnn_jax.runtime.processes import from_primary, is_primary
from agcnn_jax.runtime.storage import is_remote, reported, write_bytes

FILE = "training.json"

Lock = dict[str, Any]
"""Who trains: `host`, `process`, `since`, `token`, `peer_timeout`, and what tells whether that
process is alive (`machine`, `started`); `refreshed` counts. Empty if it cannot be read."""


@contextlib.contextmanager
def lock_workdir(
    workdir: epath.Path, peer_timeout: float, stop_requested: StopRequest
) -> Iterator[None]:
    """Let no other training into the workdir while the block runs. All processes of a run call it.

    Args:
        workdir: of the run; made if it is missing.
        peer_timeout: seconds to wait for another training to end or to go stale, and to stay away
            before this one is stale.
        stop_requested: see `stop_requests`.

    Raises:
        Stopped: if the other training goes on, naming it; or if asked to stop meanwhile.
        UserError: if the workdir cannot be written.
    """
    path, own = workdir / FILE, describe_process(peer_timeout)
    ended = threading.Event()
    keeper = threading.Thread(target=keep, args=(path, own, ended), daemon=True)
    try:
        wait_until_free(path, own, stop_requested)
        if is_primary():
            keeper.start()
        yield
    finally:
        ended.set()
        if keeper.is_alive():
            keeper.join()
        if is_primary():
            release(path, own)


def describe_process(peer_timeout: float) -> Lock:
    """Make this process's claim."""
    now = datetime.datetime.now(datetime.UTC)
    return {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "since": f"{now:%Y-%m-%d %H:%M:%S} UTC",
        "peer_timeout": peer_timeout,
        "machine": machine(),
        "started": start_of(os.getpid()),
        "token": uuid.uuid4().hex,
        "refreshed": 0,
    }


def wait_until_free(path: epath.Path, own: Lock, stop_requested: StopRequest) -> None:
    """Take the claim when no other training holds it; see `lock_workdir`."""
    watch = Watch(path, own)
    told = False
    while True:
        # All processes of the run wait alike, so that all can be asked to stop.
        other, over = from_primary(watch.look)
        if other is None:
            return
        if over:
            raise Stopped(
                f"{path.parent} is being trained by {other}; end that training, or wait for its "
                f"end, and run the same command again; or choose another --workdir"
            )
        if stop_requested():
            raise Stopped(f"stopped while waiting for {other}; nothing to save")
        if is_primary() and not told:
            limit = f"{watch.patience:g} s"
            print(f"{path.parent} is being trained by {other}; waiting up to {limit}", flush=True)
            told = True
        time.sleep(min(1.0, own["peer_timeout"] / 20))


class Watch:
    """What a process that waits for a claim has seen of it.

    Attributes:
        patience: seconds to wait: its own `peer_timeout`, or the other's if that is longer.
    """

    def __init__(self, path: epath.Path, own: Lock):
        self.patience: float = own["peer_timeout"]
        self._path, self._own = path, own
        self._seen: list[tuple[float, bytes | None]] = []  # when the file changed, and to what

    def look(self) -> tuple[str | None, bool]:
        """Take the claim if it is free or stale.

        Returns:
            Who else holds it, or None; and whether to wait no longer.
        """
        remedy = None if is_remote(self._path) else "make it writable, or choose another --workdir"
        with reported(self._path, "written", remedy):
            found, now = read(self._path), time.monotonic()
            if not self._seen or found != self._seen[-1][1]:
                self._seen.append((now, found))
            other = parse(found)
            self.patience = max(self.patience, other.get("peer_timeout", 0))
            free = found is None
            stale = is_dead(other) or now - self._seen[-1][0] >= self.patience
            if stale and not free:
                self._path.unlink(missing_ok=True)
            if (free or stale) and self._take(contested=stale or is_remote(self._path)):
                return None, False
            return name(other), now - self._seen[0][0] >= self.patience

    def _take(self, contested: bool) -> bool:
        if not create(self._path, render(self._own)):
            return False
        if contested:
            time.sleep(self._own["peer_timeout"] / 60)
        return is_same(read(self._path), self._own)


def keep(path: epath.Path, own: Lock, ended: threading.Event) -> None:
    """Refresh the claim until `ended`; end this process if another training has taken it."""
    refreshed = 0
    while not ended.wait(own["peer_timeout"] / 4):
        # A store that does not answer now may do so at the next refresh.
        with contextlib.suppress(Exception):
            found = read(path)
            if not is_same(found, own):
                leave(
                    f"{path.parent} was taken over by {name(parse(found))} while this training "
                    f"hung or was suspended; it stops, with its checkpoints as they are"
                )
            refreshed += 1
            write_bytes(path, render({**own, "refreshed": refreshed}))


def leave(message: str) -> NoReturn:
    """End this process before it writes anything else; those of a run on several hosts follow."""
    say(message)
    sys.stdout.flush()
    os._exit(TEMPORARY_STATUS)


def release(path: epath.Path, own: Lock) -> None:
    """Delete the claim if it is still this process's own."""
    # Why the training ends matters more than this; a claim that is left behind goes stale.
    with contextlib.suppress(Exception):
        if is_same(read(path), own):
            path.unlink()


def create(path: epath.Path, content: bytes) -> bool:
    """Create a file unless it is there; in an object store, write it in any case."""
    if is_remote(path):
        write_bytes(path, content)
        return True
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = open(path, "xb")  # noqa: SIM115
    except FileExistsError:
        return False
    try:
        with file:
            file.write(content)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return True


def read(path: epath.Path) -> bytes | None:
    """Read a claim; None if there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def render(claim: Lock) -> bytes:
    """Make a claim's file."""
    return (json.dumps(claim, indent=2) + "\n").encode()


def parse(content: bytes | None) -> Lock:
    """Read a claim's file; an empty claim if the file holds none, or only a part."""
    try:
        claim = json.loads(content or b"")
        known = {"peer_timeout": float(claim["peer_timeout"]), "process": int(claim["process"])}
        return {**claim, **known}
    except (ValueError, TypeError, KeyError):
        return {}


def is_same(content: bytes | None, own: Lock) -> bool:
    """Whether a claim's file is this process's."""
    return parse(content).get("token") == own["token"]


def name(claim: Lock) -> str:
    """Name the process that a claim is of."""
    if not claim:
        return "another training"
    return f"process {claim['process']} on {claim.get('host')}, since {claim.get('since')}"


def machine() -> list[str] | None:
    """Name what process numbers count within: one boot of a kernel, and one namespace.

    Host names tell less: machines may share one, and a container sees other processes than its
    host. None where the system does not say; a claim is stale by `peer_timeout` alone there.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return [boot, os.readlink("/proc/self/ns/pid")]
    except OSError:
        return None


def is_dead(claim: Lock) -> bool:
    """Whether a claim's process has certainly ended."""
    if not claim.get("machine") or claim["machine"] != machine():
        return False
    try:
        os.kill(claim["process"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # of another user
    # A number may have been given to another process since.
    return start_of(claim["process"]) not in (None, claim.get("started"))


def start_of(process: int) -> str | None:
    """Tell when a process started, in ticks since the machine booted; "ended" for a zombie.

    None where the system does not say.
    """
    try:
        line = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name, in parentheses, may hold spaces and parentheses itself; fields 3 and 22 of proc(5).
    fields = line.rpartition(")")[2].split()
    return "ended" if fields[0] in "ZX" else fields[19]
