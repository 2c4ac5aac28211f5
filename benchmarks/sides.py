"""The processes of `cpu.py` and `gpu.py`: one for each side, which runs that side's module."""

from __future__ import annotations

import contextlib
import gc
import importlib
import multiprocessing
import os
import re
import signal
import time
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.machine import large_pages

OF_THEIR_OWN = ("jax_deterministic", "torch_large_pages")
"""Sides with a process of their own, for other flags."""

MEMORY_SHARES = {"jax": 0.48, "jax_deterministic": 0.4, "torch": 0.45, "torch_large_pages": 0.45}
"""Shares of the card's memory; PyTorch is idle and holds little while both others run."""


@dataclass(frozen=True)
class Failure:
    """Why a side did not do what it was asked for."""

    error: str

    @property
    def out_of_memory(self) -> bool:
        """Tell whether a smaller batch may work."""
        return bool(re.search("RESOURCE_EXHAUSTED|out of memory", self.error, re.IGNORECASE))


def attempt(name: str, *arguments: Any) -> Any:
    """Call `MODULE.FUNCTION` in a side's process."""
    module, function = name.split(".")
    try:
        return getattr(importlib.import_module(module), function)(*arguments)
    except Exception as error:
        return Failure(f"{type(error).__name__}: {' '.join(str(error).split())}"[:500])
    finally:
        gc.collect()


def change(environment: dict[str, str]) -> None:
    """Change this process's environment, before it imports a side's module."""
    os.environ.update(environment)


class Processes:
    """The processes of the sides, each started when it is first needed."""

    def __init__(self, cache: str):
        """Make jax keep compiled programs in the folder `cache`."""
        self._cache = cache
        self._running: dict[str, tuple[ProcessPoolExecutor, int]] = {}
        self.made_with: dict[str, Any] = {}

    def ask(self, side: str, function: str, *arguments: Any) -> Future[Any]:
        """Ask a side to call a function of its module once it has done all earlier requests."""
        name = process_of(side)
        if name not in self._running:
            self._start(name)
        try:
            return self._running[name][0].submit(
                attempt, f"{module_of(name)}.{function}", *arguments
            )
        except BrokenProcessPool:  # what it was asked for before ended it
            self.end(name)
            return self.ask(side, function, *arguments)

    def _start(self, name: str) -> None:
        # The deterministic one must not take over what the other has found out about kernels.
        env = {"JAX_COMPILATION_CACHE_DIR": self._cache} if name == "jax" else {}
        if name == "jax_deterministic":
            flags = (os.environ.get("XLA_FLAGS", ""), "--xla_gpu_deterministic_ops=true")
            env["XLA_FLAGS"] = " ".join(flags)
        spawn = multiprocessing.get_context("spawn")
        executor = ProcessPoolExecutor(1, spawn, initializer=change, initargs=(env,))
        pages = {} if name == "torch" else large_pages()  # as this package's programs start
        os.environ.update(pages)
        self._running[name] = executor, executor.submit(os.getpid).result()
        for variable in pages:
            del os.environ[variable]
        described = self.ask(name, "start", MEMORY_SHARES[name]).result()
        if isinstance(described, Failure):
            raise UserError(f"{name} does not start: {described.error}")
        device = self.made_with.get("device", described["device"])
        if "cpu" in {device, described["device"]} and device != described["device"]:
            raise UserError(f"{name} runs on {described['device']}, the other side on {device}")
        self.made_with |= described

    def forget(self) -> None:
        """Make all sides drop what they have prepared."""
        for name in list(self._running):
            self.ask(name, "forget")

    def end(self, *names: str) -> None:
        """Kill some processes, or all of them; they may be in the middle of a compilation."""
        for name in names or list(self._running):
            if name in self._running:
                executor, process = self._running.pop(name)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
                executor.shutdown(wait=False, cancel_futures=True)


def process_of(side: str) -> str:
    """Name the process of a side: `jax` or `torch`, or one of its own for other flags."""
    return side if side in OF_THEIR_OWN else side.split("_")[0]


def module_of(side: str) -> str:
    """Name the module that makes a side's steps."""
    return f"side_{side.split('_')[0]}"


def answer(future: Future[Any], until: float) -> Any:
    """Wait for an answer; `TimeoutError` if there is none by the time `until`."""
    try:
        return future.result(timeout=max(0.1, until - time.monotonic()))
    except BrokenProcessPool:
        return Failure("the side's process ended")
