"""SIGTERM at a moment when a library takes exceptions for its own."""

import subprocess
import sys

import pytest

from tests.processes import environment, free_port
from tests.programs import ROOT

PROGRAM = """
import os, signal, time
from agcnn_jax import command_line

def main():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(20)
    except Exception:
        pass

command_line.define_config_flags()
command_line.run(main, preemptible={preemptible})
"""


@pytest.mark.parametrize("preemptible", [True, False])
@pytest.mark.parametrize("joined", [False, True], ids=["alone", "joined"])
def test_sigterm_is_neither_lost_nor_mistaken(tmp_path, preemptible, joined):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(preemptible=preemptible))
    flags = ["--config=configs/demo.py"]
    if joined:
        flags += [f"--coordinator_address=localhost:{free_port()}"]
        flags += ["--num_processes=1", "--process_id=0"]
    done = subprocess.run(
        [sys.executable, program, *flags],
        cwd=ROOT,
        env=environment(1, PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 75, done.stderr
    # JAX's own C++ may have something to say too.
    [line] = [line for line in done.stderr.splitlines() if line.startswith("program.py: ")]
    assert "stopped by SIGTERM" in line
