"""What limits a prediction: how busy its parts were, and which of them the others waited for."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from agcnn_jax.runtime.machine import available_cores


class Work:
    """Seconds for which each part of a prediction worked or waited, since `start`.

    Attributes:
        decoding: work of all processes that decode, together.
        fetching: for which these waited for the content of a film.
        films: for which the main process waited for films.
        device: work of the devices.
        results: for which the main process waited for the devices.
    """

    def __init__(self) -> None:
        """Begin to count when `start` is called."""
        self._began: float | None = None
        self._ended = 0.0
        self._watcher = ThreadPoolExecutor(1)
        self.start()
        self._began = None

    def start(self) -> None:
        """Forget what was, such as the start of processes and the compilation of a program."""
        self._began = self._ended = time.perf_counter()
        self.decoding = self.fetching = self.films = self.device = self.results = 0.0

    def watch(self, outputs: Mapping[str, Any], began: float) -> None:
        """Count the devices as busy from `began` until they have these outputs of a model."""
        self._watcher.submit(self._wait, outputs, began)

    def _wait(self, outputs: Mapping[str, Any], began: float) -> None:
        for values in outputs.values():
            if not isinstance(values, np.ndarray):  # of JAX, which does not wait for its devices
                values.block_until_ready()
        now = time.perf_counter()
        self.device += now - max(began, self._ended)
        self._ended = now

    def describe(self) -> str | None:
        """Say what limits, as in "decoding: 16 cores busy, device 31 % busy"; None if too early."""
        self._watcher.shutdown()
        if self._began is None or not (seconds := time.perf_counter() - self._began):
            return None
        slow = "reading" if self.fetching > self.films / 2 else "decoding"
        writing = seconds - self.films - self.results
        waited = {slow: self.films, "device": self.results, "writing": writing}
        cores = min(self.decoding / seconds, available_cores())
        return (
            f"{max(waited, key=lambda name: waited[name])}: {cores:.{0 if cores > 9.5 else 1}f} "
            f"cores busy, device {min(self.device / seconds, 1):.0%} busy".replace("%", " %")
        )
