"""Try deliberate faults in the core, one at a time; the tests named for each must notice it.

    python -m tests.mutation.mutants [--workers 2] [NAME ...]

Each fault replaces one piece of text in a copy of the project, where its tests must then fail.
Before that, all these tests must pass in a copy without a fault.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from agcnn_jax.runtime.machine import available_cores
from tests.mutation.faults import FAULTS, Fault
from tests.support.programs import ROOT

Result = TypeVar("Result")

COPIED = (
    "agcnn_jax",
    "benchmarks",
    "configs",
    "data_prep",
    "tests",
    "train.py",
    "eval.py",
    "pyproject.toml",
)
TIMEOUT = 300
"""A fault whose tests run longer than this, in seconds, counts as noticed."""

# pytest's exit statuses. After an import error or a missing test (2 to 5), no test noticed.
PASSED, FAILED = 0, 1


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One fault's outcome: whether its tests noticed it, how long they took, and a message."""

    fault: Fault
    noticed: bool
    seconds: float
    said: str


def copy_project(folder: Path) -> Path:
    """Copy the parts of the project that tests need to a new folder."""
    for name in COPIED:
        source, target = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    return folder


def run_tests(
    copy: Path, tests: tuple[str, ...], timeout: float | None = TIMEOUT
) -> tuple[int | None, str]:
    """Run tests in a copy until one fails.

    Returns:
        pytest's exit status, or None if the tests took longer than `timeout`; and its output.
    """
    options = ("-x", "-q", "--no-header", "-p", "no:cacheprovider", "-p", "no:xdist")
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(copy)}
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *tests],
            cwd=copy,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        return None, ""
    return ended.returncode, ended.stdout + ended.stderr


def try_fault(copy: Path, fault: Fault) -> Outcome:
    """Put a fault into a copy, run its tests, and restore the copy."""
    path = copy / fault.file
    sound = path.read_text("utf-8")
    start = time.monotonic()
    if sound.count(fault.sound) != 1:
        return Outcome(fault, False, 0.0, f"its text occurs {sound.count(fault.sound)} times")
    path.write_text(sound.replace(fault.sound, fault.faulty), "utf-8")
    try:
        status, printed = run_tests(copy, fault.tests)
    finally:
        path.write_text(sound, "utf-8")
    seconds = time.monotonic() - start
    if status in (FAILED, None):
        failed = [line for line in printed.splitlines() if line.startswith("FAILED")]
        return Outcome(fault, True, seconds, failed[0].split(" - ")[0][7:] if failed else "hung")
    said = (
        "no test noticed" if status == PASSED else f"pytest ended with {status}: {printed[-300:]}"
    )
    return Outcome(fault, False, seconds, said)


def share_out(tests: set[str], workers: int) -> list[tuple[str, ...]]:
    """Deal tests out to workers; the tests of a file, which share what they compile, to one."""
    shares: list[list[str]] = [[] for _ in range(workers)]
    files = sorted({test.split("::")[0] for test in tests})
    for i, file in enumerate(files):
        shares[i % workers] += sorted(test for test in tests if test.split("::")[0] == file)
    return [tuple(share) for share in shares if share]


def main() -> int:
    """Try all faults, or those that are named; return 1 if one went unnoticed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="of faults; default: all")
    parser.add_argument("--workers", type=int, default=available_cores())
    options = parser.parse_args()
    unknown = set(options.names) - {fault.name for fault in FAULTS}
    if unknown:
        parser.error(f"no such fault: {', '.join(sorted(unknown))}")
    faults = [fault for fault in FAULTS if not options.names or fault.name in options.names]
    with tempfile.TemporaryDirectory(prefix="agcnn-mutants-") as temporary:
        copies: SimpleQueue[Path] = SimpleQueue()
        for worker in range(options.workers):
            folder = Path(temporary) / f"copy{worker}"
            folder.mkdir()
            copies.put(copy_project(folder))

        def on_a_copy(function: Callable[..., Result], *given: Any) -> Result:
            copy = copies.get()
            try:
                return function(copy, *given)
            finally:
                copies.put(copy)

        with ThreadPoolExecutor(options.workers) as executor:
            print("the tests without a fault ...", flush=True)
            shares = share_out({test for fault in faults for test in fault.tests}, options.workers)
            runs = [executor.submit(on_a_copy, run_tests, share, None) for share in shares]
            for status, printed in [run.result() for run in runs]:
                if status != PASSED:
                    print(printed)
                    print("the tests fail without a fault; fix that first")
                    return 1
            unnoticed = 0
            for outcome in executor.map(functools.partial(on_a_copy, try_fault), faults):
                unnoticed += not outcome.noticed
                word = "noticed  " if outcome.noticed else "UNNOTICED"
                print(f"{word} {outcome.fault.name} ({outcome.seconds:.0f} s): {outcome.said}")
                sys.stdout.flush()
    print(f"{len(faults) - unnoticed} of {len(faults)} faults noticed")
    return int(unnoticed > 0)


if __name__ == "__main__":
    sys.exit(main())
