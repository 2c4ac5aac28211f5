"""Speed and memory of data preparation: files per second and core, and peak memory.

    python benchmarks/prepare.py [--raw_dir RAW] [--files 200 2000] [--workers N]
        [--out FILE.json]

Links a few 1024 x 1024 PNGs, generated or from RAW, to the requested number of names, and runs
`data_prep/chestxray14.py` on them.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from reporting import describe_machine, write_rows

from agcnn_jax.runtime.machine import available_cores

COMMAND = Path(__file__).resolve().parents[1] / "data_prep" / "chestxray14.py"
HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"
)
DISTINCT = 32


def link_films(films: list[Path], count: int, raw_dir: Path, of_a_patient: int = 1) -> None:
    """Make a folder in NIH's layout of `count` links to films, with so many films a patient."""
    images = raw_dir / "images"
    images.mkdir(parents=True)
    rows = [HEADER]
    for index in range(count):
        patient, number = divmod(index, of_a_patient)
        name = f"{patient:08d}_{number:03d}.png"
        (images / name).symlink_to(films[index % len(films)].resolve())
        rows.append(f"{name},No Finding,{number},{patient},50,F,PA")
    (raw_dir / "Data_Entry_2017.csv").write_text("\n".join(rows))


def make_originals(folder: Path) -> list[Path]:
    """Write `DISTINCT` smooth images with noise, about 400 kB each like NIH's."""
    folder.mkdir()
    y, x = np.mgrid[-1:1:1024j, -1:1:1024j]
    paths = []
    for seed in range(DISTINCT):
        generator = np.random.default_rng(seed)
        shape = 128 + 90 * np.cos(3 * x + seed) * np.cos(2 * y)
        pixels = np.clip(shape + generator.normal(0, 1.5, shape.shape), 0, 255).astype(np.uint8)
        paths.append(folder / f"{seed}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


def measure(originals: list[Path], files: int, workers: int, folder: Path) -> dict[str, Any]:
    """Prepare `files` links to the originals; print and return the measurements."""
    raw_dir = folder / str(files)
    link_films(originals, files, raw_dir)
    command = [sys.executable, str(COMMAND), "--raw_dir", str(raw_dir)]
    command += ["--data_dir", str(raw_dir / "data"), "--workers", str(workers)]
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - started
    match = re.search(r"(\d+) files/s", output)
    if status or match is None:
        raise SystemExit(f"preparing failed: {output}")
    cpu = usage.ru_utime + usage.ru_stime
    row = {
        "files": files,
        "workers": workers,
        "files_per_second": int(match[1]),
        "files_per_cpu_second": round(files / cpu, 1),
        "seconds_in_all": round(wall, 1),
        "largest_process_mib": round(usage.ru_maxrss / 1024),
    }
    print(row, flush=True)
    return row


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--raw_dir", type=Path, help="use its *.png instead of generated ones")
    parser.add_argument("--files", type=int, nargs="+", default=[200, 2000])
    parser.add_argument("--workers", type=int, default=available_cores())
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.raw_dir:
            originals = sorted(options.raw_dir.rglob("*.png"))
        else:
            originals = make_originals(folder / "originals")
        size = sum(path.stat().st_size for path in originals) / len(originals)
        print(f"{len(originals)} images of {size / 1000:.0f} kB on average", flush=True)
        rows = [measure(originals, files, options.workers, folder) for files in options.files]
    if options.out:
        kind = "given by --raw_dir" if options.raw_dir else "generated"
        facts = {"what": f"preparing 1024x1024 PNGs, {kind}", "image_kb": round(size / 1000)}
        facts |= describe_machine("numpy", "opencv-python-headless", "array_record")
        write_rows(options.out, facts, rows)


if __name__ == "__main__":
    main()
