"""The log of a run: metrics.jsonl, and the same for TensorBoard."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from etils import epath

from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.processes import is_primary
from agcnn_jax.runtime.storage import is_remote, reported, upload, write_bytes

FLUSH_SECONDS = 30.0
"""How long TensorBoard's file and an object store may lag behind."""


class MetricsLog(contextlib.ExitStack):
    """Appends one JSON object a line to `metrics.jsonl`, and its numbers to `events/`.

    On a disk a line is in the file when `write` returns. Objects of an object store cannot grow, so
    there `flush` uploads both files from a temporary folder. A file's error is a `UserError`. Only
    the primary process writes.
    """

    def __init__(self, workdir: epath.Path, stage: str, step: int, unscored: bool = False):
        """Open the log of a stage, and drop the lines that the stage is about to write again.

        The stage resumes after `step`, or if that is `unscored`, with its validation.
        """
        super().__init__()
        self._workdir, self._stage, self._writes = workdir, stage, is_primary()
        if not self._writes:
            return
        self._path, self._folder = workdir / "metrics.jsonl", workdir / "events" / stage
        self._local, self._remote = Path(workdir), is_remote(workdir)
        if self._remote:
            self._local = Path(self.enter_context(tempfile.TemporaryDirectory()))
        with reported(self._path, "read"):
            old = self._path.read_bytes() if self._path.exists() else b""
        lines = old.decode(errors="replace").splitlines()
        kept = [f"{line}\n" for line in lines if not _is_repeated(line, stage, step, unscored)]
        content = "".join(kept).encode()
        with reported(self._path, "written"):
            if content != old:
                write_bytes(self._path, content)
            if self._remote:
                (self._local / "metrics.jsonl").write_bytes(content)
        # Here, so that prediction, which needs only bars, does not wait for it: tensorboardX 2.6
        # imports PyTorch where that is installed, which takes as long as all other imports.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog

        with reported(self._folder, "written"):
            folder = self._local / "events" / stage
            folder.mkdir(parents=True, exist_ok=True)
            # `SummaryWriter` (2.6) hangs on a full disk. The suffix makes the file name unique.
            self._events = EventsWriter(str(folder / "events"), f".{time.time_ns()}")
            # Makes TensorBoard drop older events of later steps.
            self._add_event(step + 1, session_log=SessionLog(status=SessionLog.START))
        self._unsent, self._next_flush = True, time.monotonic() + FLUSH_SECONDS
        self.push(self._finish)

    def write(self, step: int, **values: Any) -> None:
        """Log the values of a step; TensorBoard gets the numbers."""
        if not self._writes:
            return
        from tensorboardX.summary import scalar

        with reported(self._path, "written"), (self._local / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"stage": self._stage, "step": step, **values}) + "\n")
        with reported(self._folder, "written"):
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._add_event(step, summary=scalar(name, value))
        self._unsent = True
        if time.monotonic() >= self._next_flush:
            self.flush()

    def _add_event(self, step: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._events.write_event(Event(step=step, wall_time=time.time(), **content))

    def flush(self) -> None:
        """Write out all that was logged: it must cover every step that a checkpoint covers."""
        if not self._writes or not self._unsent:
            return
        with reported(self._folder, "written"):
            self._events.flush()
        if self._remote:
            upload(self._local, self._workdir)
        self._unsent, self._next_flush = False, time.monotonic() + FLUSH_SECONDS

    def _finish(self, failure: type[BaseException] | None, *details: object) -> None:
        # A log that cannot be written must not hide why the training ends.
        with contextlib.suppress(*([UserError] if failure else [])):
            self.flush()
            self._events.close()


def _is_repeated(line: str, stage: str, step: int, unscored: bool) -> bool:
    """Tell whether a line is torn, or the stage will write it again."""
    try:
        entry = json.loads(line)
        ours, ahead = entry["stage"] == stage, entry["step"] - step
        return ours and (ahead > 0 or (ahead == 0 and unscored and "val_auc_mean" in entry))
    except (ValueError, TypeError, KeyError):
        return True
