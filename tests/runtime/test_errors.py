"""Ends of programs on machines and in shells that do not fit."""

import contextlib
import errno
import os
import shlex
import signal
import subprocess
import sys
import time

import jax
import pytest

from agcnn_jax.runtime import devices, errors
from agcnn_jax.runtime.errors import OneLineParser, UserError
from agcnn_jax.runtime.storage import reported
from tests.support.programs import ROOT

CUDA = "JAX_PLATFORMS=cuda: JAX finds no such device here; install what drives it with make "
COMMANDS = (
    ["train.py"],
    ["eval.py"],
    ["-m", "agcnn_jax.predict"],
    ["-m", "agcnn_jax.export"],
    ["-m", "agcnn_jax.experiments"],
    ["data_prep/phantoms.py"],
    ["data_prep/chestxray14.py"],
    ["data_prep/from_csv.py"],
    ["data_prep/torch_weights.py"],
)


def ending(main, capsys):
    """Return the exit status of a program, and what it says on stderr."""
    with pytest.raises(SystemExit) as leaving:
        errors.run(main)
    return leaving.value.code, capsys.readouterr().err


class TestDevices:
    @pytest.fixture
    def without(self, monkeypatch):
        """Return `set_platforms`, with which JAX looks for devices as a new process would."""
        from jax._src import xla_bridge

        def set_platforms(value):
            monkeypatch.setenv("JAX_PLATFORMS", value)
            jax.config.update("jax_platforms", value)

        before = jax.config.jax_platforms
        for name, empty in {
            "_backends": {},
            "_backend_errors": {},
            "_default_backend": None,
        }.items():
            monkeypatch.setattr(xla_bridge, name, empty)
        monkeypatch.setattr(jax, "devices", xla_bridge.backends)
        yield set_platforms
        jax.config.update("jax_platforms", before)

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            ("cuda", CUDA + "install EXTRA=cuda, or unset JAX_PLATFORMS"),
            ("gpu", "JAX_PLATFORMS=gpu: JAX finds no such device here; install what drives it"),
            ("rocm", "JAX_PLATFORMS=rocm: JAX finds no such device here; use cpu, cuda or tpu"),
            ("cuda13", "JAX_PLATFORMS=cuda13: JAX finds no such device here; use cpu, cuda or"),
        ],
    )
    def test_that_are_not_there(self, without, capsys, value, words):
        without(value)
        with pytest.raises(UserError) as caught:
            devices.check_devices()
        assert words in str(caught.value)

        def main():
            jax.devices()

        status, said = ending(main, capsys)
        assert status == 2
        assert said.count("\n") == 1
        assert words in said

    def test_other_errors_are_bugs(self):
        def main():
            raise RuntimeError("Unable to think")

        with pytest.raises(RuntimeError, match="Unable to think"):
            errors.run(main)


class TestMissingPackages:
    def test_of_the_extra_train(self, capsys):
        def main():
            import sklearn.metrics  # noqa: F401

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["/usr/bin/agcnn-eval"])
            patch.setitem(sys.modules, "sklearn", None)
            status, line = ending(main, capsys)
        assert status == 2
        assert line == (
            "agcnn-eval: error: this needs scikit-learn, which is not installed; install agcnn-jax "
            "with its extra train (in a checkout: make install)\n"
        )

    def test_others_are_bugs(self):
        def main():
            raise ModuleNotFoundError("No module named 'grains'", name="grains")

        with pytest.raises(ModuleNotFoundError, match="grains"):
            errors.run(main)


def test_too_many_open_files(capsys, tmp_path):
    def main():
        raise OSError(errno.EMFILE, "Too many open files")

    status, said = ending(main, capsys)
    assert status == 2
    assert "too many open files: this shell allows a process" in said
    assert "ulimit -n 4096" in said
    with (
        pytest.raises(UserError, match="allow more, as with ulimit -n 4096"),
        reported(tmp_path, "written"),
    ):
        main()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--wokers=3"], "there is no option --wokers; did you mean --workers?"),
        (["--nothing"], "there is no option --nothing (see --help)"),
        (["--workers=many"], "--workers: invalid int value: 'many'"),
    ],
)
def test_wrong_options(given, words):
    parser = OneLineParser()
    parser.add_argument("--workers", type=int)
    with pytest.raises(UserError) as caught:
        parser.parse_args(given)
    assert words in str(caught.value)


def test_version_of_parsers(capsys):
    status, _ = ending(lambda: OneLineParser().parse_args(["--version"]), capsys)
    assert status == 0


PRINTS = """
import sys
from agcnn_jax.runtime import errors

def main():
    for _ in range({lines}):
        print("a line of a table")
    if {fails}:
        raise errors.UserError("a mistake; do better")
    open({path!r}, "w").write("content")

errors.run(main)
"""


@pytest.mark.parametrize(
    ("shell", "lines", "status", "said"),
    [
        ("{} >/dev/full", 1, 2, "standard output cannot be written: no space left on device"),
        ("{} >/dev/full", 9999, 2, "standard output cannot be written: no space left on device"),
        ("{} | head -1 >/dev/null; exit ${{PIPESTATUS[0]}}", 99999, 141, ""),
        ("{} 2>&-", 1, 0, ""),
        ("{} >&-", 1, 0, ""),
        ("{} <&- >&- 2>&-", 9999, 0, ""),
        ("{} <&-", 1, 0, ""),
    ],
)
def test_streams_that_are_closed_full_or_not_read(tmp_path, shell, lines, status, said):
    path = tmp_path / "file"
    (tmp_path / "p.py").write_text(PRINTS.format(lines=lines, fails=False, path=str(path)))
    done = subprocess.run(
        ["bash", "-c", shell.format(shlex.join([sys.executable, f"{tmp_path}/p.py"]))],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == status
    assert said in done.stderr
    assert done.stderr.count("\n") == bool(said)
    # Nothing printed got into a file that took a closed stream's number.
    if status == 0:
        assert path.read_text() == "content"


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
class TestEveryCommand:
    def run(self, *arguments, **options):
        return subprocess.run(
            [sys.executable, *arguments], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, timeout=120, check=False, **options,
        )  # fmt: skip

    def test_version(self, command):
        assert self.run(*command, "--version").stdout == f"{errors.VERSION}\n"

    def test_a_wrong_option(self, command):
        done = self.run(*command, "--wrokdir=x")
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1

    def test_help_that_nobody_reads(self, command):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, *command, "--help"], cwd=ROOT, stdout=full, text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stderr=subprocess.PIPE, timeout=120, check=False,
            )  # fmt: skip
        assert "Traceback" not in done.stderr

    def test_ctrl_c_at_the_start(self, command):
        """After Python's own start, which takes some 30 ms."""
        for delay in (0.15, 0.2, 0.3, 0.5):
            child = subprocess.Popen(
                [sys.executable, *command], cwd=ROOT, stderr=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
            )  # fmt: skip
            time.sleep(delay)
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(signal.SIGINT)
            _, said = child.communicate(timeout=60)
            # The last: Python was ending already.
            assert child.returncode in (130, 2, -signal.SIGINT), said
            assert "Traceback" not in said
            assert len(said.splitlines()) <= 2


def test_a_wrong_option_is_named_before_the_one_that_it_stands_for() -> None:
    parser = OneLineParser()
    parser.add_argument("--out", required=True)
    with pytest.raises(UserError, match=r"no option --outt; did you mean --out\?"):
        parser.parse_args(["--outt", "model"])
    assert parser.parse_args(["--ou=--x"]).out == "--x"
