"""A process with the programs' imports done, which runs each program in a fork of itself.

Starting a program takes seconds, nearly all of them for imports. A fork has its own arguments,
folder, environment, standard streams, signals and exit, like a new process.

As a program, this file reads one request a line from standard input and answers each with the exit
status. `Started` is the other end.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[2]
TINY = Path(__file__).with_name("tiny.py")
IMPORTS = (
    "agcnn_jax.training.loop",
    "agcnn_jax.evaluation.evaluate",
    "agcnn_jax.evaluation.evaluate_predictions",
    "agcnn_jax.evaluation.report.report",
)
JAX_OPTIONS = ("JAX_LOG_COMPILES", "JAX_DISABLE_MOST_OPTIMIZATIONS")
"""Environment variables that JAX reads when it is imported; they are read again in a fork."""

READ_LATER = {
    *("XLA_FLAGS", "PYTEST_CURRENT_TEST", "PYTHONPATH", *JAX_OPTIONS),
    *("HF_ENDPOINT", "HF_HOME", "NO_PROXY"),
}
"""Environment variables that no import reads, or that are read again."""


class Started:
    """The process, for programs in one environment."""

    def __init__(self, environment):
        self._environment = _read_by_imports(environment)
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def fits(self, environment):
        """Tell whether its imports saw this environment and it is still running."""
        return self._environment == _read_by_imports(environment) and self._process.poll() is None

    def run(self, command, cwd, environment, timeout=None):
        """Run a program to its end, as `subprocess.run` does with captured output."""
        with tempfile.TemporaryDirectory() as folder:
            request = {
                "command": command,
                "cwd": str(cwd),
                "environment": dict(environment),
                "streams": [f"{folder}/stdout", f"{folder}/stderr"],
            }
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            if not select.select([self._process.stdout], [], [], timeout)[0]:
                self.close()
                raise subprocess.TimeoutExpired(command, timeout)
            status = int(self._process.stdout.readline())
            streams = [Path(path).read_text() for path in request["streams"]]
        return subprocess.CompletedProcess(command, status, *streams)

    def close(self):
        """Kill it, with the program that it may be running."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


def _read_by_imports(environment):
    return {name: value for name, value in environment.items() if name not in READ_LATER}


def _serve():
    """Serve requests in a loop; in a forked child, return the command to run."""
    for line in sys.stdin.buffer:
        request = json.loads(line)
        child = os.fork()
        if not child:
            for number, path in enumerate([os.devnull, *request["streams"]]):
                stream = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
                os.dup2(stream, number)
                os.close(stream)
            os.chdir(request["cwd"])
            os.environ.clear()
            os.environ.update(request["environment"])
            return request["command"]
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    return None


def _become(command):
    """Run a program as `python` does; return its exit status."""
    import jax

    for name in JAX_OPTIONS:
        jax.config.update(name.lower(), os.environ.get(name) == "1")
    sys.orig_argv[:] = [sys.executable, str(TINY), *command]
    try:
        if command[0] == "-m":
            sys.argv[:] = command[1:]
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv[:] = command
            sys.path[0] = str(Path(command[0]).absolute().parent)
            runpy.run_path(command[0], run_name="__main__")
        status = 0
    except SystemExit as leaving:
        status = leaving.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return status


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    importlib.import_module("tests.support.tiny").use(all_figures=False)
    for module in IMPORTS:
        importlib.import_module(module)
    # Keeps the collector from touching, and so copying, these objects in the forks.
    gc.freeze()
    program = _serve()
    if program:
        # A normal exit would take another second to tear down all modules.
        os._exit(_become(program))
