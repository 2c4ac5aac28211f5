"""Predict films of any kind with a trained model.

    agcnn-predict --workdir runs/resnet --out predictions FILES|FOLDERS

Writes predictions.csv and predictions.jsonl, and errors.csv for films that cannot be read. The same
command continues where it was stopped. Exits with 2 if a film was refused, after all others.
"""

from __future__ import annotations

if __name__ == "__main__":
    # Before the imports that take seconds.
    from agcnn_jax.runtime.interrupt import end_quietly

    end_quietly()

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from agcnn_jax.inference import ENGINES, PRECISIONS
from agcnn_jax.metrics import RULES
from agcnn_jax.runtime import errors
from agcnn_jax.runtime.errors import OneLineParser, Stopped, UserError
from agcnn_jax.runtime.machine import available_cores, restart_with_large_pages
from agcnn_jax.runtime.paths import expand

if TYPE_CHECKING:
    from agcnn_jax.inference.model import Model
    from agcnn_jax.inference.pieces import Joined
    from agcnn_jax.inference.stream import Settings, Summary

SOURCES = ("workdir", "weights", "from")
MODES = ("write_list", "list", "join")
INDICES = ("SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX")
"""Where Slurm's arrays and Kubernetes' Indexed Jobs say which piece a process is to do."""


def parse_arguments(arguments: list[str] | None = None) -> Any:
    """Parse the command line; raises `UserError` for invalid options."""
    parser = OneLineParser(about=__doc__, epilog="Give one of --workdir, --weights and --from.")
    add = parser.add_argument
    add("films", nargs="*", metavar="FILE|FOLDER", help="PNG, JPEG, TIFF or DICOM; or folders")
    add("--workdir", help="folder of a run")
    add("--weights", help="folder of converted weights, from data_prep/torch_weights.py")
    add("--from", help="an exported model: a folder, gs://, s3:// or hf://OWNER/NAME[@REVISION]")
    add(
        "--out",
        type=_place,
        default=Path("predictions"),
        help="folder to write (predictions); of pieces also gs:// or s3://",
    )
    add("--overlays", action="store_true", help="draw each film with heat map and box")
    add("--engine", choices=ENGINES, help="of an ONNX model (openvino if it is installed)")
    add("--precision", choices=PRECISIONS, help="of an ONNX model (float32)")
    add("--rule", choices=RULES, default=RULES[0], help=f"to call findings positive ({RULES[0]})")
    add("--batch_size", type=int, default=32, help="films predicted at a time (32)")
    add("--workers", type=int, default=available_cores(), help="decoding processes (all cores)")
    pieces = parser.add_argument_group("in pieces, on many machines")
    add = pieces.add_argument
    add(
        "--write_list",
        action="store_true",
        default=None,
        help="write the films' names to the file --out, no more",
    )
    add("--list", metavar="LIST", help="predict a piece of the films that a file names, one a line")
    add("--shard", metavar="I", help=f"which piece, from 0; auto: from {' or '.join(INDICES)}")
    add("--shards", type=int, metavar="N", help="the number of pieces")
    add(
        "--retry_errors",
        action="store_true",
        default=None,
        help="predict again the films that were refused",
    )
    add("--join", metavar="OUT", help="join the pieces in OUT to one table")
    options = parser.parse_args(arguments)
    modes = [f"--{name}" for name in MODES if getattr(options, name) is not None]
    if len(modes) > 1:
        raise UserError(f"{' and '.join(modes)} given; give one of them")
    if options.list is None:
        for name in ("shard", "shards", "retry_errors"):
            if getattr(options, name) is not None:
                raise UserError(f"--{name} belongs to a piece of a list; give --list too")
    sources = [name for name in SOURCES if getattr(options, name) is not None]
    if options.join is not None or options.write_list:
        if sources:
            raise UserError(f"{modes[0]} needs no model; leave --{sources[0]} out")
    elif len(sources) != 1:
        named = " and ".join(f"--{name}" for name in sources) or "no model"
        raise UserError(f"{named} given; give one of --workdir, --weights and --from")
    for name in ("engine", "precision"):
        if getattr(options, name) is not None and getattr(options, "from") is None:
            raise UserError(f"--{name} belongs to --from with an ONNX model; leave it out")
    takes_films = options.list is None and options.join is None
    if takes_films != bool(options.films):
        raise UserError(
            "no film given; name files or folders"
            if takes_films
            else f"{modes[0]} takes no films; leave {options.films[0]} out"
        )
    for name in ("batch_size", "workers"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} {getattr(options, name)}: must be 1 or more")
    if options.list is not None:
        options.shard = shard_of(options.shard, options.shards, os.environ)
    return options


def _place(text: str) -> str | Path:
    path = expand(text)
    return path if "://" in path else Path(path)


def shard_of(shard: str | None, shards: int | None, environment: Mapping[str, str]) -> int:
    """Return the number of the piece.

    Args:
        shard: as the user gave it; `auto` for that of the array's or the job's index.
        shards: the number of pieces, as the user gave it.
        environment: of this process.

    Raises:
        UserError: one is missing, or the number is none of 0 to `shards - 1`.
    """
    if shard is None or shards is None:
        missing = "shard" if shard is None else "shards"
        raise UserError(f"--list without --{missing}; give --shard I --shards N, I from 0 to N - 1")
    if shards < 1:
        raise UserError(f"--shards {shards}: must be 1 or more")
    name, text = "--shard", shard
    if shard == "auto":
        indices = {one: environment[one] for one in INDICES if environment.get(one)}
        if not indices:
            raise UserError(f"--shard auto: neither {' nor '.join(INDICES)} is set; give a number")
        if len(set(indices.values())) > 1:
            raise UserError(f"--shard auto: {' and '.join(INDICES)} differ; give a number")
        name, text = next(iter(indices.items()))
    if not (text.isascii() and text.isdigit() and int(text) < shards):
        remedy = (
            f"give 0 to {shards - 1}" if name == "--shard" else f"number from 0 to {shards - 1}"
        )
        raise UserError(f"{name} {text}: none of the {shards} pieces; {remedy}")
    return int(text)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    options = parse_arguments(arguments)
    try:
        return _run(options)
    except UserError as error:
        from agcnn_jax.runtime.storage import is_passing

        if is_passing(error.__cause__):
            raise Stopped(str(error)) from error
        raise


def _run(options: Any) -> int:
    if options.join is not None:
        return _join(options.join)
    if options.write_list:
        return _write_list(options.films, options.out)
    from agcnn_jax.inference.stream import Settings

    model = _load(options)
    settings = Settings(options.rule, options.overlays, options.batch_size, options.workers)
    if options.list is not None:
        return _predict_piece(model, options, settings)
    return _predict(model, options, settings)


def _load(options: Any) -> Model:
    if (source := getattr(options, "from")) is not None:
        from agcnn_jax.inference.load import load_exported

        return load_exported(source, options.engine, options.precision)
    from agcnn_jax.inference.load_jax import load_converted, load_run

    if options.weights is not None:
        return load_converted(options.weights)
    return load_run(options.workdir)


def _predict(model: Model, options: Any, settings: Settings) -> int:
    from agcnn_jax.inference.inputs import find_films
    from agcnn_jax.inference.stream import predict_files

    if not isinstance(options.out, Path):
        raise UserError(
            f"--out {options.out}: predictions are written to a disk; give a folder, or predict a "
            f"--list in pieces"
        )
    out = options.out
    inputs = find_films(options.films, out)
    _say_others(inputs.others)
    _say_about(model)
    done = predict_files(model, inputs.films, out, settings)
    print(f"{_counted(done)}: {out / 'predictions.csv'}")
    return _status(done, out)


def _predict_piece(model: Model, options: Any, settings: Settings) -> int:
    from agcnn_jax.inference.pieces import Shard, predict_piece
    from agcnn_jax.runtime.storage import absolute

    _say_about(model)
    out, shard = absolute(options.out), Shard(options.shard, options.shards)
    films = absolute(options.list)
    done = predict_piece(model, films, out, settings, shard, bool(options.retry_errors))
    if done.refused:
        errors.say(
            f"{done.refused:,} of {done.films:,} films were refused; --retry_errors predicts them "
            f"again"
        )
    print(f"piece {shard.number} of {shard.total} is complete, {_counted(done)}: {out}")
    if done.limit:
        print(done.limit)
    return 0


def _join(given: str) -> int:
    from agcnn_jax.inference.pieces import join
    from agcnn_jax.runtime.storage import absolute

    out = absolute(given)
    joined = join(out)
    print(f"{_counted(joined)}: {out / 'predictions.csv'}")
    return _status(joined, out)


def _write_list(films: list[str], given: str | Path) -> int:
    from agcnn_jax.inference.film_list import write_list
    from agcnn_jax.inference.inputs import iterate_films
    from agcnn_jax.runtime.storage import absolute, exists

    out, others = absolute(given), 0

    def names() -> Iterator[str]:
        nonlocal others
        known: set[str] = set()
        for name, is_film in iterate_films(films, given):
            others += not is_film
            if is_film and name not in known:
                if len(films) > 1:  # one folder has each film once
                    known.add(name)
                yield name

    if exists(out):
        raise UserError(f"--out {out} exists, and pieces may depend on it; choose another file")
    print(f"{write_list(names(), out):,} films: {out}")
    _say_others(others)
    return 0


def _say_others(count: int) -> None:
    if count:
        errors.say(f"files in the folders left out, since they are no films: {count:,}")


def _say_about(model: Model) -> None:
    """Say what computes a model, unless it is JAX, and what its predictions lack."""
    if model.computed_by:
        from agcnn_jax.inference.onnx_engines import version

        engine, precision = model.computed_by.values()
        threads = available_cores()
        errors.say(f"computed by {version(engine)} in {precision}; threads: {threads}")
    if model.lineage.synthetic:
        errors.say(
            "SYNTHETIC: the model was trained on synthetic images; what it learned from them says "
            "nothing about patients"
        )
    if model.calibration is None:
        errors.say(
            "the model has no calibration, so there are no calibrated probabilities, decisions or "
            "flags; eval.py makes a run's"
        )
    elif model.calibration.features is None:
        errors.say(
            "the calibration knows no features, so that no film is flagged as unlike the training "
            "films; eval.py knows them from 20 validation images on"
        )


def _counted(done: Summary | Joined) -> str:
    rate = getattr(done, "rate", None)
    speed = f", {rate:,.1f} films/s" if rate else ""
    unlike = f", {done.unlike:,} unlike the training films" if done.unlike else ""
    return f"{done.films - done.refused:,} of {done.films:,} films predicted{unlike}{speed}"


def _status(done: Summary | Joined, out: Any) -> int:
    if not done.refused:
        return 0
    errors.say(f"{done.refused:,} of {done.films:,} films were refused; {out}/errors.csv")
    return errors.USAGE_STATUS


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    """End at once: what is written is complete as far as progress.json says."""
    errors.say("stopped by SIGTERM; run the same command again to continue")
    os._exit(errors.TEMPORARY_STATUS)


def run() -> NoReturn:
    """Run the command as a program."""
    restart_with_large_pages()
    sys.argv[0] = "agcnn-predict"
    signal.signal(signal.SIGTERM, _stop)
    errors.run(main)


if __name__ == "__main__":
    run()
