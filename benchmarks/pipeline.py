"""Speed of the data pipeline on 1, 2, ... cores, what eight GPUs would need of it, and its memory.

    python benchmarks/pipeline.py [--cores 1 2] [--batch_size 128] [--rounds 5] [--seconds 3]
        [--raw_dir RAW] [--records 1000 112120] [--out FILE.json]

Reads 256x256 records that lie in memory through the training pipeline, shuffled and batched, in
processes that may use as many cores as `--cores` says; all numbers of cores take turns. Beside it,
decodes 1024x1024 PNGs of RAW (or generated ones) as RGB and resizes them to 256 on as many threads,
as the PyTorch ports do in every epoch. `--threads` reads with another number of threads than the
pipeline chooses. The last lines compare with the training rates in
`benchmarks/results/gpu_h100_*.json`, times eight. One process reads at one rate however many cores
it has, since only one thread runs Python: a machine with eight GPUs needs several processes.

Then it prepares as many records as `--records` says, of 64x64, and reads a shuffled epoch of each
number as training does: the seconds to open them, and the most memory that the process ever held.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.append(str(Path(__file__).resolve().parents[1]))  # the package need not be installed

from prepare import link_films
from reporting import describe_machine, spread

from agcnn_jax.data import pipeline
from agcnn_jax.data.records import open_records
from agcnn_jax.data.splits import make_split
from agcnn_jax.data_prep.chestxray14 import main as prepare
from agcnn_jax.data_prep.phantoms import generate
from agcnn_jax.runtime.machine import available_cores

PATIENTS, GPUS = 16, 8
FILMS_OF_A_PATIENT = 4
RESULTS = Path(__file__).parent / "results"


def rate(work: Callable[[], int], seconds: float) -> float:
    """Repeat `work`, which returns its number of images, and return images per second."""
    work()
    start, images = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        images += work()
    return images / (time.perf_counter() - start)


def decode(path: Path) -> np.ndarray:
    """Decode a radiograph as RGB and resize it to 256, as the PyTorch ports do."""
    image = Image.open(path).convert("RGB").resize((256, 256), Image.Resampling.BILINEAR)
    return np.asarray(image)


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Measure the pipeline, and decoding, with this process's cores; images per second."""
    records = open_records(options.data_dir)
    indices = np.tile(np.arange(len(records)), 1 + 20_000 // len(records))
    source = records.images_and_labels()
    dataset = pipeline.training_batches(source, indices, options.batch_size, seed=0)
    batches = pipeline.iterate(dataset, threads=options.threads)
    read = rate(lambda: len(next(batches)["record"]), options.seconds)
    batches.close()
    files = sorted(options.raw_dir.rglob("*.png"))[:64]
    with ThreadPoolExecutor(available_cores()) as executor:
        decoded = rate(lambda: len(list(executor.map(decode, files))), options.seconds)
    return {"read": read, "decode": decoded}


def on_cores(cores: int, options: argparse.Namespace, data_dir: str, raw_dir: Path) -> Any:
    """Run `measure` in a process of its own that may use that many cores."""
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    command = [sys.executable, __file__, "--data_dir", data_dir, "--raw_dir", str(raw_dir)]
    command += ["--batch_size", str(options.batch_size), "--seconds", str(options.seconds)]
    command += ["--threads", str(options.threads)] if options.threads else []
    pinned = ["taskset", "-c", ",".join(map(str, allowed)), *command]
    return json.loads(subprocess.run(pinned, check=True, stdout=subprocess.PIPE).stdout)


def make_many(records: int, folder: Path) -> str:
    """Prepare one image under many names; return the folder of the data set."""
    Image.fromarray(np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)).save(folder / "film.png")
    link_films([folder / "film.png"], records, folder / "raw", FILMS_OF_A_PATIENT)
    data_dir = str(folder / "data")
    prepare(["--raw_dir", str(folder / "raw"), "--data_dir", data_dir, "--image_size", "64"])
    return data_dir


def epoch(options: argparse.Namespace) -> dict[str, Any]:
    """Open a data set and read one shuffled epoch of its training images; seconds and MiB."""
    before, start = peak_mib(), time.perf_counter()
    records = open_records(options.data_dir)
    split = make_split(records, "patient", 0)
    seconds, opened = time.perf_counter() - start, peak_mib()
    source = records.images_and_labels()
    batches = pipeline.iterate(
        pipeline.training_batches(source, split.train, options.batch_size, 0)
    )
    start = time.perf_counter()
    steps = len(split.train) // options.batch_size
    for _ in range(steps):
        next(batches)
    rate = steps * options.batch_size / (time.perf_counter() - start)
    batches.close()
    return {
        "records": len(records),
        "seconds_to_open": round(seconds, 2),
        "mib_imported": before,
        "mib_opened": opened,
        "mib_after_epoch": peak_mib(),
        "read": round(rate),
    }


def peak_mib() -> int:
    """Return the most memory that this process has held, in MiB, without the page cache."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def gpu_needs(read: float) -> list[dict[str, Any]]:
    """Compare one core's rate with what eight GPUs train, by their fastest measured step."""
    rows = []
    for path in sorted(RESULTS.glob("gpu_h100_*.json")):
        file = json.loads(path.read_text())
        rates = [
            (row["results"]["jax"]["images_per_second"], row["stage"], row["dtype"])
            for row in file["rows"]
            if row["part"] == "train" and "jax" in row.get("results", {})
            if "images_per_second" in row["results"]["jax"]
        ]
        if rates:
            fastest, stage, dtype = max(rates)
            name = f"{GPUS} x {file['device']}, {file['rows'][0]['backbone']}, {stage}, {dtype}"
            needed = GPUS * fastest
            cores = math.ceil(needed / read)
            rows.append({"training": name, "needed": round(needed), "processes_of_a_core": cores})
    return rows


def main() -> None:
    """Measure in turn, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--raw_dir", type=Path, help="folder with 1024x1024 PNGs and their CSV")
    parser.add_argument("--data_dir", help=argparse.SUPPRESS)  # of a process that measures
    parser.add_argument("--epoch", action="store_true", help=argparse.SUPPRESS)  # its memory
    parser.add_argument("--records", type=int, nargs="*", default=[1_000, 112_120])
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--threads", type=int, help="threads that read")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    if options.data_dir:
        print(json.dumps(epoch(options) if options.epoch else measure(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        raw_dir = options.raw_dir or Path(folder) / "raw"
        if options.raw_dir is None:
            generate(raw_dir, PATIENTS, size=1024, seed=0, workers=available_cores())
        prepare(["--raw_dir", str(raw_dir), "--data_dir", f"{folder}/data"])
        turns = [
            {cores: on_cores(cores, options, f"{folder}/data", raw_dir) for cores in options.cores}
            for _ in range(options.rounds)
        ]
    rows = []
    for cores in options.cores:
        row: dict[str, Any] = {"cores": cores}
        for side in ("read", "decode"):
            row[side] = spread([turn[cores][side] for turn in turns])
        ratios = [turn[cores]["read"] / turn[cores]["decode"] for turn in turns]
        row["ratio"] = round(statistics.median(ratios), 1)
        rows.append(row)
        print(f"{cores} cores: {row['read']} img/s read, {row['decode']} decoded: {row['ratio']} x")
    needs = gpu_needs(rows[0]["read"]["median"] / rows[0]["cores"])
    for need in needs:
        print(need)
    epochs = []
    for records in options.records:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, "--epoch", "--data_dir"]
            command += [make_many(records, Path(folder)), "--batch_size", str(options.batch_size)]
            read = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
        epochs.append(json.loads(read))
        print(epochs[-1])
    if options.out:
        facts = {"what": __doc__.split("\n")[0], "threads": options.threads or "as chosen"}
        facts |= {"unit": "images per second", "batch_size": options.batch_size}
        facts |= describe_machine("grain", "array_record", "tensorflow-datasets")
        lists = {"rows": rows, "gpus": needs, "epochs": epochs}
        options.out.write_text(json.dumps(facts | lists, indent=1) + "\n")


if __name__ == "__main__":
    main()
