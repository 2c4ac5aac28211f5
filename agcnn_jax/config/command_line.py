"""Flags of the entry points; user errors become one line."""

from __future__ import annotations

import difflib
import functools
import os
import re
import signal
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import ml_collections
from absl import flags
from ml_collections import config_flags

from agcnn_jax.config.check import check_config, load_config
from agcnn_jax.config.keys import KEYS, check_value, unknown_key
from agcnn_jax.config.kinds import in_words
from agcnn_jax.config.named import config_names, config_path
from agcnn_jax.runtime import errors, supervisor
from agcnn_jax.runtime.errors import Stopped, UserError
from agcnn_jax.runtime.machine import restart_with_large_pages

FLAGS = flags.FLAGS
HELP, VERSION = {"--help", "-h", "-help"}, "--version"


def define_config_flags(runs: str = "runs") -> None:
    """Define `--config`, `--workdir`, by default in the folder `runs`, and those for many hosts."""
    which = f"A config by its name ({', '.join(config_names())}), or a file."
    config_flags.DEFINE_config_file("config", None, which, flag_values=FLAGS)
    FLAGS["config"].parser = _ConfigFile()
    address = "HOST:PORT of process 0; TPU pods, Slurm and Open MPI give it themselves."
    for name, text in (
        ("workdir", f"Folder of what is written; by default {runs}/<name of the config file>."),
        ("coordinator_address", address),
    ):
        flags.DEFINE_string(name, None, text, flag_values=FLAGS)
    for name, default, lowest, text in (
        ("num_processes", None, None, "Number of processes, with --coordinator_address."),
        ("process_id", None, None, "Number of this process, from 0."),
        ("start_timeout", 300, 1, "Seconds to wait for the other processes."),
    ):
        flags.DEFINE_integer(name, default, text, lower_bound=lowest, flag_values=FLAGS)


def run(
    main: Callable[..., int | None],
    about: str | None = None,
    preemptible: bool = False,
    positionals: int = 0,
) -> NoReturn:
    """Parse flags, join the other processes of the run if there are any, then run `main`.

    See `agcnn_jax.runtime.errors.run` for the exit statuses. A process that ends with an error
    tells the others, which then end too. `about` is what `--help` says first. `preemptible` says
    that `main` handles SIGTERM on several hosts with `stop_requests`. `positionals` is the most
    arguments that are no options; `main` gets them.
    """

    def parse_and_run() -> int | None:
        main_with_arguments = functools.partial(main, *_parse(sys.argv, positionals, about))
        _check_address(FLAGS.coordinator_address, FLAGS.num_processes, FLAGS.process_id)
        if FLAGS.config is None or not supervisor.is_needed(FLAGS.coordinator_address):
            signal.signal(signal.SIGTERM, _stop)
            return main_with_arguments()
        if not supervisor.is_supervised():
            return supervisor.run_supervised(FLAGS.coordinator_address, FLAGS.start_timeout)
        return _run_joined(main_with_arguments, preemptible)

    if not (HELP | {VERSION}) & set(sys.argv):
        restart_with_large_pages()
    if supervisor.is_supervised():
        supervisor.begin_supervised()
    errors.run(parse_and_run)


def _check_address(address: str | None, processes: int | None, process: int | None) -> None:
    """Raise `UserError` unless all flags of a run on several hosts are given and valid, or none."""
    if address is None or processes is None or process is None:
        flags = {
            "--coordinator_address": address,
            "--num_processes": processes,
            "--process_id": process,
        }
        missing = [name for name, value in flags.items() if value is None]
        if len(missing) == len(flags):
            return
        raise UserError(f"{' and '.join(missing)} missing; give all of {', '.join(flags)}, or none")
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UserError(f"--coordinator_address is {address!r}; give HOST:PORT of process 0")
    if processes < 1:
        raise UserError(f"--num_processes is {processes}; give the number of all processes")
    if not 0 <= process < processes:
        raise UserError(
            f"--process_id is {process}; give each of the {processes} processes one of "
            f"0 to {processes - 1}"
        )


def _run_joined(main: Callable[[], int | None], preemptible: bool) -> int | None:
    from agcnn_jax.runtime import cluster
    from agcnn_jax.runtime.processes import sync_call

    # Joined first, so that the others hear of any other error in this process's config.
    peer_timeout = check_value("peer_timeout", FLAGS.config.peer_timeout)
    try:
        cluster.join(
            FLAGS.coordinator_address,
            FLAGS.num_processes,
            FLAGS.process_id,
            peer_timeout,
            FLAGS.start_timeout,
            preemptible,
        )
        if not cluster.is_joined():
            # JAX handles SIGTERM now, but nobody would ask it when to stop.
            signal.signal(signal.SIGTERM, _stop)
        sync_call(configured)
        return main()
    except Stopped:
        raise
    except KeyboardInterrupt as interrupt:
        if interrupt.args or not cluster.is_joined():
            raise
        # `stop_requests` did not hold this one back: the others find this process lost.
        errors.say(errors.INTERRUPTED)
        cluster.leave(errors.INTERRUPTED_STATUS)
    except Exception as error:
        cluster.fail(error, peer_timeout)
        raise


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    """End a program at once: libraries would catch an exception raised inside them."""
    errors.say(errors.NOTHING_SAVED)
    os._exit(errors.TEMPORARY_STATUS)


def check_flags_beside(*names: str) -> None:
    """Raise `UserError` if any other flag is given, since it has no effect with these."""
    for flag in _own_flags():
        if flag.present and flag.name not in names:
            raise UserError(f"--{flag.name} has no effect with --{names[0]}; leave it out")


def _own_flags() -> list[flags.Flag]:
    """List the flags of this package and of the program; others belong to libraries."""
    modules = FLAGS.flags_by_module_dict()
    ours = [name for name in modules if name == sys.argv[0] or name.startswith("agcnn_jax.")]
    return [flag for name in ours for flag in modules[name]]


def configured(runs: str = "runs") -> tuple[ml_collections.ConfigDict, str, dict[str, Any]]:
    """Return the config with its overrides, checked, the workdir, and the overrides.

    The default workdir is in the folder `runs`.
    """
    if FLAGS.config is None:
        raise UserError("--config is missing; name a config or a file, such as --config demo")
    config = FLAGS.config
    check_config(config)
    overrides = dict(config_flags.get_override_values(FLAGS["config"]))
    if FLAGS.workdir and "workdir" in overrides:
        raise UserError("--workdir and --config.workdir set the same; leave one out")
    name = Path(config_flags.get_config_filename(FLAGS["config"]).partition(":")[0]).stem
    return config, FLAGS.workdir or config.workdir or f"{runs}/{name}", overrides


class _ConfigFile(flags.ArgumentParser):
    def parse(self, argument: str) -> ml_collections.ConfigDict:
        # The text after a colon is an argument of the file's get_config.
        given, *arguments = argument.split(":", 1)
        return load_config(config_path(given), *arguments)


def _parse(arguments: list[str], positionals: int = 0, about: str | None = None) -> list[str]:
    """Parse flags, and return the arguments that are none; `--help` and `--version` end here."""
    if VERSION in arguments:
        print(errors.VERSION)
        sys.exit(0)
    if HELP & set(arguments):
        name = " NAME" if positionals else ""
        print(f"usage: {errors.invocation()}{name} [--OPTION=VALUE ...] [--config.KEY=VALUE ...]\n")
        print(f"{errors.as_invoked(about)}\noptions:")
        for flag in _own_flags():
            print(_entry(f"--{flag.name}", flag.help))
        print("\nkeys of the config, which --config.KEY=VALUE overrides:")
        for name, row in KEYS.items():
            values = in_words(row.kind, row.limits)
            print(_entry(name, f"{row.meaning} ({values}; default {row.default!r})"))
        sys.exit(0)
    _check_arguments(arguments)
    try:
        extra = FLAGS(arguments)[1:]
    except flags.UnrecognizedFlagError as error:
        raise UserError(f"{_unknown_flag(error.flagname)} (see --help)") from error
    except flags.Error as error:
        reason = f"{str(error).strip().splitlines()[-1]} (see --help)"
        if override := re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error), re.DOTALL):
            key, value = override.groups()
            reason = f"config.{key} is {value}; {KEYS[key].words}"
        raise UserError(reason) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # ml_collections raises these for overrides without a value or of an unknown type.
        raise UserError(f"config override not understood: {error}") from error
    if len(extra) > positionals:
        raise UserError(f"unexpected argument {extra[positionals]!r}; options begin with --")
    return list(extra)


def _entry(name: str, text: str) -> str:
    """Write a name and, below it, what it means."""
    text = errors.as_installed(" ".join(text.split()))
    lines = textwrap.wrap(text, 92, break_on_hyphens=False)
    return "\n".join([f"  {name}", *(f"      {line}" for line in lines)])


def _unknown_flag(name: str) -> str:
    """Say that there is no such flag; a key of the config needs `--config.` before it."""
    keys = [key for key in KEYS if name in (key, key.rpartition(".")[2])]
    keys = keys or difflib.get_close_matches(name, KEYS, n=1, cutoff=0.8)
    own = [flag.name for flag in _own_flags()]
    if keys and not difflib.get_close_matches(name, own, n=1, cutoff=0.8):
        meant = " or ".join(f"--config.{key}" for key in keys)
        return f"there is no option --{name}; did you mean {meant}?"
    return errors.unknown_option(f"--{name}", (f"--{flag}" for flag in own))


def _check_arguments(arguments: list[str]) -> None:
    """Raise `UserError` for a config file missing or given twice, and for unknown keys."""
    given = []
    for position, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in ("--config", "-config"):
            given.append(value if equals else "".join(arguments[position + 1 : position + 2]))
        override = re.fullmatch(r"--?(?:no)?config\.(.*)", name)
        if override and override[1] not in KEYS:
            raise UserError(unknown_key(override[1]))
    if len(given) > 1:
        raise UserError(f"--config is given twice, {' and '.join(given)}; give one config file")
    # The text after a colon is an argument of get_config.
    if path := given[0].split(":")[0] if given else "":
        config_path(path)
