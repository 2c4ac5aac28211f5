"""Traces a few training steps for XProf and TensorBoard."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from etils import epath

from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.processes import is_primary
from agcnn_jax.runtime.storage import reported, write_bytes


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
            self.enter_context(_trace(self._directory))

    def after(self, step: int, outputs: Any) -> None:
        """End the trace if this was its last step, once the devices have finished it."""
        if step in self._steps[-1:]:
            jax.block_until_ready(outputs)
            self.close()


@contextlib.contextmanager
def _trace(directory: epath.Path) -> Iterator[None]:
    # The profiler writes to disks only; the workdir may be in an object store.
    with tempfile.TemporaryDirectory(prefix="agcnn-profile-") as folder:
        try:
            with jax.profiler.trace(folder):
                yield
        except BaseException:
            # A trace that cannot be written must not hide why the training ends.
            with contextlib.suppress(UserError):
                _copy(Path(folder), directory)
            raise
        _copy(Path(folder), directory)


def _copy(folder: Path, directory: epath.Path) -> None:
    with reported(directory, "written"):
        for path in filter(Path.is_file, folder.rglob("*")):
            write_bytes(directory / str(path.relative_to(folder)), path.read_bytes())
