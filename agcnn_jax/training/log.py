"""What a run writes about itself: metrics.jsonl and the same for TensorBoard."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from etils import epath
from tensorboardX import SummaryWriter
from tqdm import tqdm


def progress_bar(total: int, done: int, description: str, leave: bool = True) -> tqdm:
    """A bar of images on stderr, with images per second and the time left.

    In a terminal it moves; where stderr is a file it leaves a line now and then.

    Args:
        total: images in all.
        done: images done before.
        description: what is going on.
        leave: whether the full bar stays.
    """
    return tqdm(
        total=total,
        initial=done,
        desc=description,
        unit="img",
        leave=leave,
        dynamic_ncols=True,
        mininterval=0.1 if sys.stderr.isatty() else 10.0,
    )


class MetricsLog:
    """Appends one JSON object a line to `metrics.jsonl`, and its numbers to `events/`."""

    def __init__(self, workdir: epath.Path, stage: str, resumed_step: int):
        """Open the log of a stage.

        Lines of this stage that are later than the step resumed from are taken out, since those
        steps will be done again; the last line of a killed run may be torn, and goes too.

        Args:
            workdir: of the run.
            stage: name of the stage.
            resumed_step: step that the stage starts from, 0 for a new one.
        """
        self._path = workdir / "metrics.jsonl"
        self._stage = stage
        if self._path.exists():
            text = self._path.read_bytes().decode(errors="replace")
            lines = text.splitlines(keepends=True)
            kept = [line for line in lines if self._keeps(line, resumed_step)]
            if kept != lines:
                replacement = workdir / "metrics.jsonl.tmp"
                replacement.write_text("".join(kept))
                os.replace(replacement, self._path)
        self._events = SummaryWriter(
            os.fspath(workdir / "events" / stage), purge_step=resumed_step + 1
        )

    def _keeps(self, line: str, resumed_step: int) -> bool:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            return False
        if not isinstance(entry, dict) or not {"stage", "step"} <= entry.keys():
            return False
        return entry["stage"] != self._stage or entry["step"] <= resumed_step

    def write(self, step: int, **values: Any) -> None:
        """Log values of a step; numbers go to TensorBoard too."""
        with self._path.open("a") as file:
            file.write(json.dumps({"stage": self._stage, "step": step, **values}) + "\n")
        for name, value in values.items():
            if isinstance(value, int | float):
                self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Write out what is buffered."""
        self._events.close()
