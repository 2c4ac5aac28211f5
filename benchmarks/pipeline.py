"""Speed of the data pipeline, compared with decoding and resizing PNGs in every epoch.

    python benchmarks/pipeline.py [--raw_dir RAW] [--batch_size 128] [--seconds 10]

Reads 256x256 records through the training pipeline, batched and shuffled. In the same run, decodes
the 1024x1024 PNGs of RAW (or generated ones) as RGB and resizes them to 256 on as many threads, as
the PyTorch ports' data loaders do. Prints both rates in images per second and their ratio.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from agcnn_jax.data.pipeline import iterate, training_batches
from agcnn_jax.data.records import open_records
from agcnn_jax.runtime.cores import available_cores
from data_prep.chestxray14 import main as prepare
from data_prep.phantoms import generate

PHANTOM_PATIENTS = 16


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


def main() -> None:
    """Measure both and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--raw_dir", type=Path, help="folder with 1024x1024 PNGs and their CSV")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    threads = available_cores()

    with tempfile.TemporaryDirectory() as folder:
        raw_dir = options.raw_dir or Path(folder) / "raw"
        if options.raw_dir is None:
            generate(raw_dir, PHANTOM_PATIENTS, size=1024, seed=0, workers=threads)
        prepare(["--raw_dir", str(raw_dir), "--data_dir", f"{folder}/data"])
        records = open_records(f"{folder}/data")
        indices = np.tile(np.arange(len(records)), 1 + 20_000 // len(records))
        batches = iterate(
            training_batches(records.images_and_labels(), indices, options.batch_size, seed=0)
        )
        with ThreadPoolExecutor(threads) as executor:
            files = sorted(raw_dir.rglob("*.png"))[:64]
            decoded = rate(lambda: len(list(executor.map(decode, files))), options.seconds)
        delivered = rate(lambda: len(next(batches)["record"]), options.seconds)
        batches.close()
    print(f"{threads} cores, batches of {options.batch_size}")
    print(f"pipeline, 256x256 records          {delivered:8,.0f} img/s")
    print(f"decoding 1024x1024 PNGs each epoch {decoded:8,.0f} img/s")
    print(f"ratio                              {delivered / decoded:8.1f}")


if __name__ == "__main__":
    main()
