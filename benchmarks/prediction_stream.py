"""Memory and speed of predicting many films.

    python benchmarks/prediction_stream.py --memory [--counts 1000 10000] [--out FILE]
    python benchmarks/prediction_stream.py --speed [--films FOLDER] [--backbone NAME] [--out FILE]

--memory runs `python -m agcnn_jax.predict` on as many films: links to a few tiny ones, with a tiny
network, so that what grows with the number of films shows. It prints the peak memory of the main
process. --speed compares the films a second of whole predictions, from PNG files of 1024 x 1024
pixels to rows, with those of the bare prediction step on stored images. All weights are random. The
rows of --out that were measured the other way are kept.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from agcnn_jax.config.keys import DEFAULTS, nest
from agcnn_jax.data.labels import LABELS
from agcnn_jax.data_prep.phantoms import generate
from agcnn_jax.inference.export import exported_config
from agcnn_jax.inference.jax_model import JaxModel
from agcnn_jax.inference.model_files import CONFIG, LINEAGE, WEIGHTS, to_safetensors, write_folder
from agcnn_jax.inference.stream import Settings, predict_files
from agcnn_jax.models.agcnn import init_variables
from agcnn_jax.run import lineage
from agcnn_jax.run.recipe import make_recipe
from agcnn_jax.runtime.machine import available_cores

BATCH = 32
DIFFERENT = 32
"""Files that the links of --memory lead to."""


def random_model(backbone: str, input_size: int, image_size: int) -> JaxModel:
    """Make a model of three branches with random weights."""
    settings = {"backbone": backbone, "input_size": input_size, "init": "random"}
    config = nest(DEFAULTS | settings)
    recipe = make_recipe(config, len(LABELS))
    variables = init_variables(recipe.model, jax.random.key(0), input_size)
    variables = jax.tree.map(np.asarray, variables)
    digest = lineage.digest(variables)
    seen = lineage.Lineage()
    return JaxModel("random", config, LABELS, image_size, None, digest, seen, variables)


def write_model(model: JaxModel, folder: Path) -> None:
    """Write an exported model."""
    files = {
        WEIGHTS: to_safetensors(model.variables),
        CONFIG: json.dumps(exported_config(model)).encode(),
        LINEAGE: json.dumps(model.lineage.to_json()).encode(),
    }
    write_folder(folder, files)


def link_films(films: list[Path], count: int, folder: Path) -> None:
    """Fill a folder with `count` links to films, 1,000 in each folder below."""
    for i, film in zip(range(count), itertools.cycle(films), strict=False):
        below = folder / f"{i // 1000:04d}"
        below.mkdir(parents=True, exist_ok=True)
        (below / f"{i:07d}.png").symlink_to(film)


def peak(arguments: Sequence[object], seconds: float | None = None) -> dict[str, Any]:
    """Run a prediction, at most for some seconds; return its peak memory and its time."""
    command = [sys.executable, "-m", "agcnn_jax.predict", *map(str, arguments)]
    began, largest, told = time.monotonic(), 0, False
    process = subprocess.Popen(command)
    while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
        # `getrusage` would begin with the memory of this process, which started the other.
        status = Path(f"/proc/{process.pid}/status").read_text()
        if found := re.search(r"VmHWM:\s+(\d+) kB", status):
            largest = int(found[1])
        if seconds is not None and time.monotonic() - began > seconds and not told:
            process.send_signal(signal.SIGTERM)
            told = True
        time.sleep(0.2)
    _, code, used = ended
    if os.waitstatus_to_exitcode(code) != (0 if seconds is None else 75):
        raise SystemExit(f"{' '.join(command)} ended with status {code}")
    return {
        "peak_mib": round(largest / 1024),
        "seconds": round(time.monotonic() - began, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
    }


def measure_memory(counts: list[int], folder: Path) -> list[dict[str, Any]]:
    """Predict so many films, each time in a process of its own."""
    write_model(random_model("resnet_tiny", 56, 64), folder / "model")
    random, films = np.random.default_rng(0), []
    for i in range(DIFFERENT):
        films.append(folder / f"{i}.png")
        Image.fromarray(random.integers(0, 256, (64, 64), np.uint8)).save(films[-1])
    rows = []
    for count in counts:
        given, out = folder / f"films_{count}", folder / f"out_{count}"
        link_films(films, count, given)
        used = peak(["--from", folder / "model", "--out", out, given])
        progress = json.loads((out / "progress.json").read_text())
        counted = {key: progress[key] for key in ("films", "refused")}
        rows.append({"measured": "memory", **counted, **used})
        print(rows[-1], flush=True)
    return rows


def measure_speed(
    backbone: str, given: Path | None, folder: Path, repeats: int
) -> list[dict[str, Any]]:
    """Compare films a second from files to rows with those of the bare step."""
    model = random_model(backbone, 224, 256)
    if given is None:
        generate(folder / "raw", 16, size=1024, seed=0, workers=available_cores())
        given = folder / "raw/images"
    films = [str(path) for path in sorted(given.glob("*.png"))] * repeats
    films = films[: len(films) // BATCH * BATCH]  # a batch that is not full takes as long
    images = np.random.default_rng(0).integers(0, 256, (BATCH, 256, 256), np.uint8)
    jax.block_until_ready(model.predict_batch(images))
    began, cpu, steps = time.monotonic(), time.process_time(), 0
    while time.monotonic() - began < 15:
        jax.block_until_ready(model.predict_batch(images))
        steps += 1
    bare = steps * BATCH / (time.monotonic() - began)
    cpu = (time.process_time() - cpu) / (steps * BATCH)
    rows = []
    for workers in sorted({1, available_cores()}):
        settings = Settings("youden", False, BATCH, workers)
        few, all_of_them = (
            predict_files(model, films[:count], folder / f"out_{workers}_{count}", settings)
            for count in (2 * BATCH, len(films))
        )
        # Without the start of the processes, and the first batch.
        whole = (all_of_them.new - few.new) / (all_of_them.seconds - few.seconds)
        row = {
            "measured": "speed",
            "backbone": backbone,
            "films": all_of_them.films,
            "refused": all_of_them.refused,
            "workers": workers,
            "step_films_per_second": round(bare, 2),
            "step_cpu_ms_per_film": round(1000 * cpu, 1),
            "whole_films_per_second": round(whole, 2),
            "with_start_films_per_second": round(all_of_them.new / all_of_them.seconds, 2),
            "ratio": round(whole / bare, 3),
        }
        rows.append(row)
        print(row, flush=True)
    return rows


def main() -> None:
    """Measure, print, and write --out."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--memory", action="store_true")
    what.add_argument("--speed", action="store_true")
    parser.add_argument("--counts", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--films", type=Path, help="folder of PNG files (default: phantoms)")
    parser.add_argument("--repeats", type=int, default=3, help="times each film is predicted")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if options.memory:
            rows = measure_memory(options.counts, Path(scratch))
        else:
            rows = measure_speed(options.backbone, options.films, Path(scratch), options.repeats)
    if options.out:
        kept = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
        kept = [row for row in kept if row["measured"] != rows[0]["measured"]]
        result = {
            "what": "predicting many films: peak memory and speed",
            "machine": f"{available_cores()} cores, {platform.machine()}",
            "versions": {name: version(name) for name in ("jax", "flax", "numpy", "pillow")},
            "rows": kept + rows,
        }
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
