"""Predicting a piece of a long list, and films from a bucket.

    python benchmarks/prediction_pieces.py --memory [--lines 10000000] [--out FILE]
    python benchmarks/prediction_pieces.py --bucket [--films 320] [--pairs 3] [--out FILE]

--memory compares the peak memory of the main process: 1,000 films named on the command line, 1,000
films that are a piece of a list, and a piece that is the whole list, stopped after --seconds. The
lines name a few tiny films again and again, and the network is tiny. --bucket compares the films a
second from PNG files of 1024 x 1024 pixels on the disk with those of the same files in a bucket. A
server on this machine stands for it: each of its answers takes --latency seconds more. The rows of
--out that were measured the other way are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from prediction_stream import peak, random_model, write_model

from agcnn_jax.data_prep.phantoms import generate
from agcnn_jax.inference.stream import Settings, predict_files
from agcnn_jax.runtime.machine import available_cores

DIFFERENT = 32
FEW = 1_000
PIECES = 10_000
"""Pieces of the list of which one is predicted."""

SERVER = """
import sys, time
from tests.remote.object_store import serving
with serving() as store:
    store.create("bucket")
    for path in sys.argv[2:]:
        store.put("bucket", path.rpartition("/")[2], open(path, "rb").read())
    store.latency = float(sys.argv[1])
    print(*[f"{name}={value}" for name, value in store.environment().items()], flush=True)
    sys.stdin.read()
"""


def measure_memory(lines: int, seconds: float, folder: Path) -> list[dict[str, Any]]:
    """Measure the memory of plain predictions and of pieces of a long list."""
    write_model(random_model("resnet_tiny", 56, 64), folder / "model")
    random, films = np.random.default_rng(0), []
    for i in range(DIFFERENT):
        films.append(folder / f"{i:060d}.png")
        Image.fromarray(random.integers(0, 256, (64, 64), np.uint8)).save(films[-1])
    names = folder / "films.txt"
    with open(names, "w") as file:
        for i in range(lines):
            file.write(f"{films[i % DIFFERENT]}\n")
    given = folder / "given"
    given.mkdir()
    for i in range(FEW):
        (given / f"{i:07d}.png").symlink_to(films[i % DIFFERENT])
    model = ["--from", folder / "model", "--workers", 1]
    piece = [*model, "--list", names, "--shard", 0]
    rows = []
    for what, arguments, limit in (
        ("1,000 films of a folder", [*model, "--out", folder / "plain", given], None),
        (
            f"a piece of {lines // PIECES:,} of the lines",
            [*piece, "--shards", PIECES, "--out", folder / "piece"],
            None,
        ),
        (
            "a piece of all lines, stopped",
            [*piece, "--shards", 1, "--out", folder / "whole"],
            seconds,
        ),
    ):
        row = {"measured": "memory", "what": what, "lines": lines, **peak(arguments, limit)}
        rows.append(row)
        print(row, flush=True)
    return rows


def measure_bucket(
    count: int, pairs: int, workers: int, latency: float, folder: Path
) -> list[dict[str, Any]]:
    """Compare films a second from the disk and from a bucket, in turns."""
    generate(folder / "raw", 16, size=1024, seed=0, workers=available_cores())
    files = sorted((folder / "raw/images").glob("*.png"))
    command = [sys.executable, "-c", SERVER, str(latency), *map(str, files)]
    root = Path(__file__).parents[1]
    with subprocess.Popen(
        command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        variables = dict(pair.split("=", 1) for pair in server.stdout.readline().split())
        os.environ.update(variables)
        import fsspec

        fsspec.config.set_conf_env(fsspec.config.conf)
        model = random_model("resnet_tiny", 56, 64)
        settings = Settings("youden", False, 16, workers)
        places = {
            "disk": [str(path) for path in files],
            "bucket": [f"gs://bucket/{path.name}" for path in files],
        }
        rates: dict[str, list[float]] = {place: [] for place in places}
        for pair in range(pairs):
            for place, films in places.items():
                repeated = (films * (count // len(films) + 1))[:count]
                done = predict_files(model, repeated, folder / f"{place}{pair}", settings)
                assert done.rate is not None and not done.refused
                rates[place].append(round(done.rate, 1))
                print(place, rates[place][-1], flush=True)
        server.terminate()
    ratios = [b / d for d, b in zip(rates["disk"], rates["bucket"], strict=True)]
    row = {
        "measured": "bucket",
        "films": count,
        "workers": workers,
        "latency_seconds": latency,
        "disk_films_per_second": rates["disk"],
        "bucket_films_per_second": rates["bucket"],
        "median_ratio": round(statistics.median(ratios), 3),
    }
    print(row, flush=True)
    return [row]


def main() -> None:
    """Measure, print, and write --out."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--memory", action="store_true")
    what.add_argument("--bucket", action="store_true")
    parser.add_argument("--lines", type=int, default=10_000_000)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--films", type=int, default=320)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--latency", type=float, default=0.05)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if options.memory:
            rows = measure_memory(options.lines, options.seconds, Path(scratch))
        else:
            counts = (options.films, options.pairs, options.workers, options.latency)
            rows = measure_bucket(*counts, Path(scratch))
    if options.out:
        kept = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
        kept = [row for row in kept if row["measured"] != rows[0]["measured"]]
        result = {
            "what": "pieces of a list of films: peak memory, and the rate from a bucket",
            "machine": f"{available_cores()} cores, {platform.machine()}",
            "versions": {name: version(name) for name in ("jax", "fsspec", "numpy", "pillow")},
            "rows": kept + rows,
        }
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
