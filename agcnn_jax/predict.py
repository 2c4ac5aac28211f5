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
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from agcnn_jax.metrics import RULES
from agcnn_jax.runtime import errors
from agcnn_jax.runtime.errors import OneLineParser, UserError
from agcnn_jax.runtime.machine import available_cores, restart_with_large_pages

SOURCES = ("workdir", "weights", "from")


def parse_arguments(arguments: list[str] | None = None) -> Any:
    """Parse the command line; raises `UserError` for invalid options."""
    parser = OneLineParser(about=__doc__, epilog="Give one of --workdir, --weights and --from.")
    add = parser.add_argument
    add("films", nargs="*", metavar="FILE|FOLDER", help="PNG, JPEG, TIFF or DICOM; or folders")
    add("--workdir", help="folder of a run")
    add("--weights", help="folder of converted weights, from data_prep/torch_weights.py")
    add("--from", help="an exported model: a folder, or hf://OWNER/NAME[@REVISION]")
    add("--out", type=Path, default=Path("predictions"), help="folder to write (predictions)")
    add("--overlays", action="store_true", help="draw each film with heat map and box")
    add("--rule", choices=RULES, default=RULES[0], help=f"to call findings positive ({RULES[0]})")
    add("--batch_size", type=int, default=32, help="films predicted at a time (32)")
    add("--workers", type=int, default=available_cores(), help="decoding processes (all cores)")
    options = parser.parse_args(arguments)
    sources = [name for name in SOURCES if getattr(options, name) is not None]
    if len(sources) != 1:
        named = " and ".join(f"--{name}" for name in sources) or "no model"
        raise UserError(f"{named} given; give one of --workdir, --weights and --from")
    if not options.films:
        raise UserError("no film given; name files or folders")
    for name in ("batch_size", "workers"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} {getattr(options, name)}: must be 1 or more")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    options = parse_arguments(arguments)
    from agcnn_jax.inference import load
    from agcnn_jax.inference.inputs import find_films
    from agcnn_jax.inference.stream import Settings, predict_files

    if options.workdir is not None:
        model = load.load_run(options.workdir)
    elif options.weights is not None:
        model = load.load_converted(options.weights)
    else:
        model = load.load_exported(getattr(options, "from"))
    inputs = find_films(options.films, options.out)
    if inputs.others:
        errors.say(f"files in the folders left out, since they are no films: {inputs.others:,}")
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
    settings = Settings(options.rule, options.overlays, options.batch_size, options.workers)
    done = predict_files(model, inputs.films, options.out, settings)
    speed = f", {done.rate:,.1f} films/s" if done.rate else ""
    unlike = f", {done.unlike:,} unlike the training films" if done.unlike else ""
    count = f"{done.films - done.refused:,} of {done.films:,} films predicted"
    print(f"{count}{unlike}{speed}: {options.out / 'predictions.csv'}")
    if not done.refused:
        return 0
    errors.say(f"{done.refused:,} of {done.films:,} films were refused; {options.out}/errors.csv")
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
