"""Large pages are requested once, and only where Linux gives them on request."""

import os
import subprocess
import sys
import time

import pytest

from agcnn_jax.runtime import machine
from tests.support.programs import ROOT

PROGRAM = """
import os, sys
from pathlib import Path
from agcnn_jax.runtime import machine
machine.MODES = Path(sys.argv[1])
print(os.getpid(), flush=True)
machine.restart_with_large_pages()
print(os.environ.get("GLIBC_TUNABLES"), sys.argv[2:], sys.flags.utf8_mode)
"""


@pytest.mark.parametrize(
    ("modes", "before", "starts", "request_"),
    [
        ("always [madvise] never", None, 2, machine.REQUEST),
        ("always [madvise] never", "glibc.malloc.check=1", 1, "glibc.malloc.check=1"),
        ("[always] madvise never", None, 1, None),
        (None, None, 1, None),
    ],
)
def test_a_program_starts_again_where_it_helps(tmp_path, modes, before, starts, request_):
    (tmp_path / "program.py").write_text(PROGRAM)
    if modes is not None:
        (tmp_path / "modes").write_text(f"{modes}\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("GLIBC_TUNABLES", None)
    if before is not None:
        environment["GLIBC_TUNABLES"] = before
    command = (sys.executable, "-X", "utf8", "program.py", str(tmp_path / "modes"), "--a", "b c")
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    *processes, said = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert len(processes) == starts
    assert len(set(processes)) == 1  # the same process
    assert said == f"{request_} ['--a', 'b c'] 1"


def test_seconds_since_this_process_started():
    code = (
        "import time; time.sleep(0.3); from agcnn_jax.runtime.machine import seconds_since_start; "
        "print(seconds_since_start())"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert 0.3 <= float(done.stdout) <= time.monotonic() - began + 0.02
