"""Several processes of one run on this machine, in place of a pod's hosts."""

import os
import signal
import socket
import subprocess
import sys
import time

from tests.support.programs import ROOT
from tests.support.started import TINY

DEMO = (
    "--config=tests/configs/demo.py",
    "--config.input_size=56",
    "--config.batch_size=16",
    "--config.eval_batch_size=16",
)
"""A small network whose steps take a fraction of a second."""


def environment(devices, **variables):
    """Environment variables of a process with this many CPU devices."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    return {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", **variables}


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


class Run:
    """Processes of one run, started together and killed at the end of the `with` block."""

    def __init__(
        self, *command, processes=2, devices=2, each=None, cwd=ROOT, variables=None, flags=True
    ):
        """Start them.

        Args:
            command: program and arguments of all processes.
            processes: number of processes.
            devices: number of devices of each process.
            each: `{process: arguments}` to add for single processes; None instead of arguments
                leaves a process out.
            cwd: folder that they start in, or `{process: folder}`.
            variables: `{process: {name: value}}`, environment variables of single processes.
            flags: tell the processes by flags how to find each other.
        """
        self.processes = {}
        port = free_port()
        for process in range(processes):
            extra = (each or {}).get(process, ())
            if extra is None:
                continue
            place = cwd.get(process, ROOT) if isinstance(cwd, dict) else cwd
            cluster = ()
            if processes > 1 and flags:
                cluster = (
                    f"--coordinator_address=localhost:{port}",
                    f"--num_processes={processes}",
                    f"--process_id={process}",
                )
            self.processes[process] = subprocess.Popen(
                [sys.executable, *[str(a) for a in (TINY, *command, *cluster, *extra)]],
                cwd=place,
                env=environment(devices, **(variables or {}).get(process, {})),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for process in self.processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def __getitem__(self, process):
        return self.processes[process]

    def worker(self, process):
        """The pid that does the work: the supervised child, where there are several processes."""
        pid = self.processes[process].pid
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            children = file.read().split()
        return int(children[0]) if children else pid

    def wait_for(self, condition, timeout=120):
        """Wait until a condition holds; fail if a process ends first."""
        end = time.monotonic() + timeout
        while not condition():
            for number, process in self.processes.items():
                if process.poll() is not None:
                    _, stderr = process.communicate()
                    raise AssertionError(f"process {number} ended: {process.returncode}\n{stderr}")
            assert time.monotonic() < end, "took too long"
            time.sleep(0.02)

    def finish(self, timeout=300):
        """Wait until all have ended; return `[(status, stdout, stderr)]`."""
        ends = []
        for process in self.processes.values():
            stdout, stderr = process.communicate(timeout=timeout)
            ends.append((process.returncode, stdout, stderr))
        return ends

    def succeed(self):
        """Wait until all have ended with status 0; return what each printed."""
        ends = self.finish()
        for status, _, stderr in ends:
            assert status == 0, stderr
        return [stdout for _, stdout, _ in ends]
