"""The commands that pip installs, and the files at the top of a checkout that stand for them."""

import importlib
import re
import subprocess
import sys
import tomllib

import pytest

from agcnn_jax import commands, prepare
from agcnn_jax.runtime import errors
from tests.support.programs import ROOT

SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
HEAVY = {"jax", "flax", "matplotlib", "scipy", "orbax"} | set(errors.TRAIN)

PROGRAM = """
import sys
from agcnn_jax import commands

sys.argv = sys.argv[1:]
try:
    commands.{command}()
finally:
    print(*sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("script", "subcommand"),
    [*((name, ()) for name in SCRIPTS), *(("agcnn-prepare", (name,)) for name in prepare.COMMANDS)],
    ids=lambda value: value if isinstance(value, str) else "".join(value),
)
def test_help_needs_no_package_that_takes_long(script, subcommand):
    module, _, command = SCRIPTS[script].partition(":")
    assert module == commands.__name__
    program = PROGRAM.format(command=command)
    done = subprocess.run(
        [sys.executable, "-c", program, f"bin/{script}", *subcommand, "--help"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert not HEAVY & set(done.stderr.split())
    name = " ".join((script, *subcommand))
    assert done.stdout.startswith(f"usage: {name} ")
    assert re.search(f"^    {name} .*--", done.stdout, re.MULTILINE), "an example"
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert not re.search(r"\w\.py\b(?<!mine\.py)|docs/", done.stdout), "a file of a checkout"


@pytest.mark.parametrize("name", ["train", "eval"])
def test_the_modules_run_too(name):
    done = subprocess.run(
        [sys.executable, "-m", f"agcnn_jax.{name}", "--version"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == f"{errors.VERSION}\n"


@pytest.mark.parametrize("command", ["train", "check"])
def test_a_missing_package_is_one_line(command):
    """Also one that the command imports before it reads its options."""
    block = "import sys; sys.modules['ml_collections'] = None; sys.argv = ['bin/agcnn']; "
    done = subprocess.run(
        [sys.executable, "-c", f"{block}from agcnn_jax import commands; commands.{command}()"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == errors.USAGE_STATUS
    assert done.stderr.startswith("agcnn: error: this needs ml_collections, which is not installed")
    assert done.stderr.count("\n") == 1


def test_examples_name_the_program_that_was_called(monkeypatch):
    about = "Train.\n\n    agcnn-train --config demo\n\nas agcnn-eval"
    for program, called in (
        ("/usr/bin/agcnn-train", "agcnn-train"),
        ("./train.py", "python train.py"),
        ("/x/agcnn_jax/experiments/__main__.py", "python -m agcnn_jax.experiments"),
        ("/x/agcnn_jax/train.py", "python -m agcnn_jax.train"),
    ):
        monkeypatch.setattr(sys, "argv", [program])
        assert errors.as_invoked(about) == about.replace("agcnn-train", called)


def test_prepare_knows_the_commands_of_a_checkout():
    files = {path.stem for path in (ROOT / "data_prep").glob("*.py")}
    assert files == set(prepare.COMMANDS)
    for name in files:
        assert callable(importlib.import_module(f"agcnn_jax.data_prep.{name}").run)


def test_prepare_names_the_commands_that_there_are(monkeypatch):
    for given in ([], ["phantom"]):
        monkeypatch.setattr(sys, "argv", ["agcnn-prepare", *given])
        with pytest.raises(errors.UserError, match="COMMAND"):
            prepare.main()


@pytest.mark.parametrize(
    ("message", "installed"),
    [
        (
            "prepare it with: python data_prep/from_csv.py --images",
            "agcnn-prepare from_csv --images",
        ),
        (
            "a folder that data_prep/torch_weights.py wrote",
            "that agcnn-prepare torch_weights wrote",
        ),
        (
            "run the same python train.py command; eval.py is next",
            "same agcnn-train command; agcnn-eval is",
        ),
        ("my/train.py, x-eval.py: no such file", "my/train.py, x-eval.py: no such file"),
        ("invalid choice: 'chestxray14.py'", "invalid choice: 'chestxray14.py'"),
    ],
)
def test_messages_name_the_commands_that_there_are(monkeypatch, message, installed):
    monkeypatch.setattr(sys, "argv", ["train.py"])
    assert errors.as_installed(message) == message
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/agcnn-train"])
    assert installed in errors.as_installed(message)
