"""What a run writes about itself: metrics.jsonl and the same for TensorBoard."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from etils import epath
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2
from tensorboardX.summary import scalar
from tqdm import tqdm

from agcnn_jax.runtime import storage
from agcnn_jax.runtime.errors import UserError

FLUSH_SECONDS = 30.0
"""How long a line may wait for TensorBoard's file and, with it, for an object store."""


def progress_bar(
    total: int, done: int, description: str, leave: bool = True, show: bool = True
) -> tqdm:
    """A bar of images on stderr, with images per second and the time left.

    In a terminal it moves; where stderr is a file it leaves a line now and then.

    Args:
        total: images in all.
        done: images done before.
        description: what is going on.
        leave: whether the full bar stays.
        show: whether there is a bar at all; of several processes, one shows it.
    """
    return tqdm(
        total=total,
        initial=done,
        desc=description,
        unit="img",
        leave=leave,
        dynamic_ncols=True,
        mininterval=0.1 if sys.stderr.isatty() else 10.0,
        disable=not show,
    )


class SilentLog:
    """Takes what `MetricsLog` takes and keeps nothing."""

    def __enter__(self) -> SilentLog:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def write(self, step: int, **values: Any) -> None:
        """Drop the values of a step."""

    def flush(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class MetricsLog:
    """Adds one JSON object a line to `metrics.jsonl`, and its numbers to `events/`.

    On a disk a line is there when `write` returns. Objects of an object store cannot grow: there
    the file is replaced by a longer one at `flush`, at `close` and every `FLUSH_SECONDS`.
    """

    def __init__(self, workdir: epath.Path, stage: str, resumed_step: int, validated: bool = True):
        """Open the log of a stage.

        Lines of this stage that are later than the step resumed from are taken out, since those
        steps will be done again, and so is that step's validation if it counts for nothing yet;
        the last line of a killed run may be torn, and goes too.

        Args:
            workdir: of the run.
            stage: name of the stage.
            resumed_step: step that the stage starts from, 0 for a new one.
            validated: whether no validation of that step will follow.

        Raises:
            UserError: if the log cannot be read or written.
        """
        self._path = workdir / "metrics.jsonl"
        self._stage = stage
        self._unsent = False
        self._next_flush = time.monotonic() + FLUSH_SECONDS
        with storage.reported(self._path, "read"):
            found = self._path.read_bytes() if self._path.exists() else b""
        lines = found.decode(errors="replace").splitlines()
        kept = [line for line in lines if self._keeps(line, resumed_step, validated)]
        self._content = "".join(f"{line}\n" for line in kept).encode()
        if self._content != found:
            with storage.reported(self._path, "written"):
                storage.write_bytes(self._path, self._content)
        self._events = _Events(workdir / "events" / stage, resumed_step)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Close the log; what fails then does not hide what went wrong before."""
        with contextlib.suppress(*([UserError] if kind else [])):
            self.close()

    def _keeps(self, line: str, resumed_step: int, validated: bool) -> bool:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            return False
        if not isinstance(entry, dict) or not {"stage", "step"} <= entry.keys():
            return False
        if entry["stage"] != self._stage or entry["step"] < resumed_step:
            return True
        return entry["step"] == resumed_step and (validated or "val_auc_mean" not in entry)

    def write(self, step: int, **values: Any) -> None:
        """Log values of a step; numbers go to TensorBoard too.

        Raises:
            UserError: if the log cannot be written.
        """
        line = (json.dumps({"stage": self._stage, "step": step, **values}) + "\n").encode()
        if storage.is_remote(self._path):
            self._content += line
            self._unsent = True
        else:
            with storage.reported(self._path, "written"), self._path.open("ab") as file:
                file.write(line)
        self._events.add(step, values)
        if time.monotonic() >= self._next_flush:
            self.flush()

    def flush(self) -> None:
        """Put everything written so far where the run lies.

        Call this before a checkpoint is saved: a run resumed from there repeats no step before it,
        and so no line.

        Raises:
            UserError: if the log cannot be written.
        """
        if self._unsent:
            with storage.reported(self._path, "written"):
                storage.write_bytes(self._path, self._content)
            self._unsent = False
        self._events.flush()
        self._next_flush = time.monotonic() + FLUSH_SECONDS

    def close(self) -> None:
        """Write out what is buffered.

        Raises:
            UserError: if the log cannot be written.
        """
        self.flush()
        self._events.close()


def open_log(
    workdir: epath.Path, stage: str, resumed_step: int, validated: bool, primary: bool
) -> MetricsLog | SilentLog:
    """Open the log of a stage on the primary process, and one that keeps nothing on the others.

    Args:
        workdir: of the run.
        stage: name of the stage.
        resumed_step: step that the stage starts from, 0 for a new one.
        validated: whether no validation of that step will follow.
        primary: whether this process is the one that writes.

    Raises:
        UserError: if the log cannot be read or written.
    """
    if not primary:
        return SilentLog()
    return MetricsLog(workdir, stage, resumed_step, validated)


class _Events:
    """TensorBoard's file of a stage; for an object store, made on the disk and copied up.

    The `SummaryWriter` of tensorboardX 2.6 writes in a thread: what it could not write it does not
    say, and after a full disk it waits for that thread forever.
    """

    def __init__(self, directory: epath.Path, resumed_step: int):
        self._directory = directory
        self._temporary = None
        local = Path(directory)
        if storage.is_remote(directory):
            self._temporary = tempfile.TemporaryDirectory(prefix="agcnn-events-")
            local = Path(self._temporary.name)
        with storage.reported(directory, "written"):
            local.mkdir(parents=True, exist_ok=True)
            # Without its own ending, one of two files of the same second replaces the other.
            self._writer = EventsWriter(str(local / "events"), f".{time.time_ns()}")
            # TensorBoard leaves out what an earlier call logged from here on.
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(resumed_step + 1, session_log=start)
        self._local = local

    def add(self, step: int, values: dict[str, Any]) -> None:
        with storage.reported(self._directory, "written"):
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._write(step, summary=scalar(name, value))

    def _write(self, step: int, **content: Any) -> None:
        self._writer.write_event(event_pb2.Event(step=step, wall_time=time.time(), **content))

    def flush(self) -> None:
        with storage.reported(self._directory, "written"):
            self._writer.flush()
            if self._temporary is not None:
                for path in self._local.iterdir():
                    storage.write_bytes(self._directory / path.name, path.read_bytes())

    def close(self) -> None:
        with storage.reported(self._directory, "written"):
            self._writer.close()
        if self._temporary is not None:
            self._temporary.cleanup()
