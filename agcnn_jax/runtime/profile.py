"""Traces of a few training steps, for XProf and TensorBoard."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
from etils import epath

from agcnn_jax.runtime import storage
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.processes import is_primary

WARM_UP = 10
"""Steps of a call that are not traced if there are enough: the first compiles, others wait."""


class Profile:
    """Traces some steps of a stage on the primary process.

    A call that ends before leaves the trace of the steps it did.
    """

    def __init__(self, directory: epath.Path, steps: int, resumed: int, total: int):
        """Plan the trace.

        Args:
            directory: where TensorBoard finds it.
            steps: number of steps to trace; none for 0.
            resumed: steps of the stage that were done before.
            total: steps of the stage.
        """
        self._directory = directory
        # A short stage is traced from its second step on rather than not at all.
        self._first = max(resumed + 2, min(resumed + WARM_UP, total - steps) + 1)
        self._last = self._first + steps - 1
        self._wanted = steps > 0 and is_primary()
        self._folder: str | None = None
        self._running = False

    def __enter__(self) -> Profile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # What fails here does not hide what went wrong before.
        with contextlib.suppress(*([UserError] if kind else [])):
            self._stop()

    def before(self, step: int) -> None:
        """Start the trace if this is its first step."""
        if self._wanted and step == self._first:
            self._folder = tempfile.mkdtemp(prefix="agcnn-profile-")
            jax.profiler.start_trace(self._folder)
            self._running = True

    def after(self, step: int, outputs: Any) -> None:
        """End the trace if this was its last step, when the devices have done it."""
        if self._running and step == self._last:
            jax.block_until_ready(outputs)
            self._stop()

    def _stop(self) -> None:
        if not self._running:
            return
        self._running = False
        # The profiler writes to a disk only; the workdir may be elsewhere.
        assert self._folder is not None
        folder = Path(self._folder)
        try:
            jax.profiler.stop_trace()
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    target = self._directory / path.relative_to(folder).as_posix()
                    with storage.reported(target, "written"):
                        storage.write_bytes(target, path.read_bytes())
        finally:
            shutil.rmtree(folder, ignore_errors=True)
