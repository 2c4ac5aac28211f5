"""Ends of programs: user errors as one line on stderr, and the exit statuses."""

from __future__ import annotations

import argparse
import difflib
import errno
import logging
import os
import re
import resource
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from absl import logging as absl_logging

import agcnn_jax
from agcnn_jax.runtime import interrupt
from agcnn_jax.runtime.interrupt import INTERRUPTED as INTERRUPTED
from agcnn_jax.runtime.interrupt import INTERRUPTED_STATUS as INTERRUPTED_STATUS
from agcnn_jax.runtime.paths import expanded_path
from agcnn_jax.runtime.progress import write_line

USAGE_STATUS = 2
"""An error that running the same command again does not fix."""

TEMPORARY_STATUS = 75
"""Stopped from outside; the same command continues. EX_TEMPFAIL in BSD's sysexits.h."""

PIPE_STATUS = 141
"""The reader of standard output went away, as shells report SIGPIPE."""

VERSION = f"agcnn-jax {agcnn_jax.__version__}"

_PACKAGES = {
    "cuda": "jax[cuda]",
    "tpu": "jax[tpu]",
    "gcs": "gcsfs and etils[epath-gcs]",
    "s3": "s3fs and etils[epath-s3]",
    "dicom": "python-gdcm",
    "onnx": "onnx and onnxruntime",
    "openvino": "openvino",
    "parity": "torch",
}
"""The optional packages of `pyproject.toml`."""

TRAIN = {
    "array_record": "array_record",
    "grain": "grain",
    "optax": "optax",
    "sklearn": "scikit-learn",
    "tensorboardX": "tensorboardX",
    "tensorflow_datasets": "tensorflow-datasets",
}
"""The modules that the extra `train` brings, and the packages that they are in."""

_BASE = (
    *("flatbuffers", "flax", "huggingface_hub", "jax", "jaxlib", "ml_collections", "orbax"),
    "safetensors",
)
"""Modules of packages that predicting with an ONNX file does without; agcnn-jax brings them."""

NOTHING_SAVED = "stopped by SIGTERM, with nothing to save; run the same command again to continue"


class UserError(Exception):
    """A user error; its message names the file, option or value and the remedy."""


class Stopped(Exception):
    """Stopped from outside, for example by SIGTERM; the same command continues."""


class OneLineParser(argparse.ArgumentParser):
    """An `ArgumentParser` with errors in one line, `~` in paths, and `--version`."""

    def __init__(self, about: str | None = None, **options: Any):
        """Take the docstring of the program, and the options of `ArgumentParser`."""
        super().__init__(
            prog=invocation(),
            description=as_invoked(about),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **options,
        )
        self.register("type", Path, expanded_path)
        self.add_argument("--version", action="version", version=VERSION)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Name a wrong option first: it may stand for one that is then missing."""
        args = sys.argv[1:] if args is None else list(args)
        for given in args[: args.index("--")] if "--" in args else args:
            name = given.partition("=")[0]
            known = (option.startswith(name) for option in self._option_string_actions)
            if name.startswith("--") and " " not in given and not any(known):
                self.error(f"unrecognized arguments: {given}")
        return super().parse_known_args(args, namespace)

    def format_help(self) -> str:
        """Name the commands that there are."""
        return as_installed(super().format_help())

    def error(self, message: str) -> NoReturn:
        """Raise `UserError`, so that all user errors end alike."""
        if unknown := re.search(r"unrecognized arguments: (-[^\s=]+)", message):
            message = unknown_option(unknown[1], self._option_string_actions)
        raise UserError(f"{message} (see --help)")


def invocation() -> str:
    """Return how this program was called, such as agcnn-train or python train.py."""
    path = Path(sys.argv[0])
    if path.name == "__main__.py":
        return f"python -m agcnn_jax.{path.parent.name}"
    if path.parent.name == "agcnn_jax":
        return f"python -m agcnn_jax.{path.stem}"
    return f"python {path}" if path.suffix == ".py" else path.name


def as_invoked(about: str | None) -> str:
    """Have the examples in a program's docstring name the file that was run, if it was one."""
    called = invocation()
    if not called.startswith("python "):
        return about or ""
    return re.sub(r"(?m)^( +)agcnn-(?:prepare )?\w+", rf"\1{called}", about or "")


def as_installed(message: str) -> str:
    """Name the installed commands in a message that names a checkout's, if one of them was run."""
    if invocation().startswith("python "):
        return message
    # Quoted names are what the user gave.
    bare = r"(?<![\w./'-])"
    message = re.sub(
        rf"{bare}(?:python )?(?:data_prep/)?"
        r"(chestxray14|from_csv|phantoms|torch_weights)\.py\b",
        r"agcnn-prepare \1",
        message,
    )
    return re.sub(rf"{bare}(?:python )?(train|eval)\.py\b", r"agcnn-\1", message)


def unknown_option(given: str, known: Iterable[str]) -> str:
    """Say that there is no option `given`, such as `--workers`, and name the nearest."""
    near = difflib.get_close_matches(given, list(known), n=2, cutoff=0.6)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"there is no option {given}{hint}"


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run `main` and exit with its status.

    Exits with 0 on success, also if `main` returns None, 2 on `UserError`, 75 on `Stopped`, 130 on
    Ctrl-C and 141 if nobody reads standard output any more. So do the user's mistakes that no
    caller can foresee: a device that is not there, too few open files, a full disk under standard
    output. Any other exception is a bug and keeps its traceback.
    """
    # Users cannot act on the warnings of libraries.
    absl_logging.set_verbosity(absl_logging.ERROR)
    # It warns where it cannot keep its caches in the home, and then does without them.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    _open_standard_streams()
    interrupt.raise_again()
    status: Any
    try:
        try:
            status = main() or 0
        except SystemExit as leaving:  # after --help, for example
            status = leaving.code
        sys.stdout.flush()
    except UserError as error:
        say(f"error: {error}")
        status = USAGE_STATUS
    except Stopped as stopped:
        say(str(stopped))
        status = TEMPORARY_STATUS
    except KeyboardInterrupt as interrupted:
        if sys.stderr is not None and sys.stderr.isatty():
            write_line("", sys.stderr)  # below the terminal's ^C
        say(str(interrupted) or INTERRUPTED)
        status = INTERRUPTED_STATUS
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _output_fails():
            status = PIPE_STATUS
        elif message := surroundings(error):
            say(f"error: {message}")
            status = USAGE_STATUS
        else:
            raise
    try:
        sys.stdout.flush()
    except OSError:
        # Python's own attempt at the end would print a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(status)


def packages_of(extra: str) -> str:
    """Name the packages of an extra, and the command that installs them.

    It names the packages themselves, because whoever has no checkout gets them by these names.
    """
    return f"{_PACKAGES[extra]} (in a checkout: make install EXTRA={extra})"


def missing_package(error: BaseException) -> str | None:
    """Say what to install, if an exception is about a package that is missing here."""
    name = ((isinstance(error, ModuleNotFoundError) and error.name) or "").partition(".")[0]
    if name in _BASE:
        return (
            f"this needs {name}, which is not installed; install agcnn-jax with all that it needs "
            f"(in a checkout: make install)"
        )
    package = TRAIN.get(name)
    if package is None:
        return None
    return (
        f"this needs {package}, which is not installed; install agcnn-jax with its extra train "
        f"(in a checkout: make install)"
    )


def surroundings(error: BaseException) -> str | None:
    """Say what is missing on this machine if an exception comes from there, and the remedy."""
    number = getattr(error, "errno", None)
    if message := missing_package(error) or _missing_device(error) or too_many_files(number):
        return message
    if isinstance(error, OSError) and _output_fails():
        said = os.strerror(number or 0).lower()
        return f"standard output cannot be written: {said}; write it somewhere else"
    return None


def too_many_files(number: int | None) -> str | None:
    """Say that a process may not open more files if that is what the system's `errno` says."""
    if number not in (errno.EMFILE, errno.ENFILE):
        return None
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return (
        f"too many open files: this shell allows a process {limit} (ulimit -n); allow more, as "
        f"with ulimit -n 4096, or give fewer --workers where the program has them"
    )


def _missing_device(error: BaseException) -> str | None:
    """Say which device JAX does not find; None if an exception is about something else."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or Path(frames[-1].filename).name != "xla_bridge.py":
        return None
    wanted = os.environ.get("JAX_PLATFORMS", "")
    # jax 0.10.2 has no message where its plugin for the platform is not installed.
    reason = " ".join(str(error).split()).partition(" (set JAX_PLATFORMS")[0].rstrip(".")
    because = f" ({reason})" if reason and "known backends" not in reason else ""
    if not wanted:
        return f"JAX finds no device to compute on{because}; reinstall it: make install"
    extras = {"cuda": "cuda", "gpu": "cuda", "tpu": "tpu"}
    names = [name.strip().lower() for name in wanted.split(",")]
    extra = next((extras[name] for name in names if name in extras), None)
    install = f"install what drives it with make install EXTRA={extra}"
    return (
        f"JAX_PLATFORMS={wanted}: JAX finds no such device here{because}; "
        f"{install if extra else 'use cpu, cuda or tpu'}, or unset JAX_PLATFORMS to compute on the "
        f"devices that JAX finds"
    )


def _open_standard_streams() -> None:
    """Open the null device for each standard stream that is closed (`2>&-`).

    Otherwise the next file that the program opens would take its number, and get its output.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115


def _output_fails() -> bool:
    """Tell whether standard output takes nothing any more."""
    try:
        # What `print` could not write is lost, so that flushing may succeed.
        os.write(1, b"\n")
    except OSError:
        return True
    return False


def say(message: str) -> None:
    """Print the program's name and a message on one line of stderr."""
    path = Path(sys.argv[0])
    program = path.parent.name if path.name == "__main__.py" else path.name
    write_line(f"{program}: {as_installed(' '.join(message.split()))}", sys.stderr)
