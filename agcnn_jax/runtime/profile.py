"""Traces a few training steps for XProf and TensorBoard."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from pathlib import Path
from typing import Any

import jax
from etils import epath

from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.processes import is_primary
from agcnn_jax.runtime.storage import upload


class Profile(contextlib.ExitStack):
    """Traces `steps` steps of a stage, or those that it reaches, on the primary process."""

    def __init__(self, directory: epath.Path, steps: int, resumed: int, total: int):
        super().__init__()
        # After ten steps of warm-up, or fewer in a short stage; the first of them compiles.
        first = max(resumed + 2, min(resumed + 10, total - steps) + 1)
        self._steps = range(first, first + steps) if is_primary() else range(0)
        self._directory = directory

    def before(self, step: int) -> None:
        """Start the trace if this is its first step."""
        if step in self._steps[:1]:
            # The profiler writes to disks only; the workdir may be in an object store.
            folder = self.enter_context(tempfile.TemporaryDirectory(prefix="agcnn-profile-"))
            self.push(functools.partial(self._upload, Path(folder)))
            self.enter_context(jax.profiler.trace(folder))

    def after(self, step: int, outputs: Any) -> None:
        """End the trace if this was its last step, once the devices have finished it."""
        if step in self._steps[-1:]:
            jax.block_until_ready(outputs)
            self.close()

    def _upload(self, folder: Path, failure: type[BaseException] | None, *details: Any) -> None:
        # A trace that cannot be written must not hide why the training ends.
        with contextlib.suppress(*([UserError] if failure else [])):
            upload(folder, self._directory)
