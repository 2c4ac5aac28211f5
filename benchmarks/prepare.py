"""Speed and memory of data preparation: files per second and core, and peak memory.

    python benchmarks/prepare.py [--raw_dir RAW] [--side 1024] [--files 200 2000] [--workers N]
        [--out FILE.json]

Links a few square PNGs, generated or from RAW, to the requested number of names, and runs
`data_prep/chestxray14.py` and `data_prep/from_csv.py` on them in turn, with NIH's table for both.
Memory over many rows: `--side 16 --files 1000 100000`.
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

COMMANDS = Path(__file__).resolve().parents[1] / "data_prep"
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
        labels = "Mass" if index % 2 else "No Finding"
        rows.append(f"{name},{labels},{number},{patient},50,F,PA")
    (raw_dir / "Data_Entry_2017.csv").write_text("\n".join(rows))


def make_originals(folder: Path, side: int) -> list[Path]:
    """Write `DISTINCT` smooth images with noise; of 1024 pixels about 400 kB each like NIH's."""
    folder.mkdir()
    x, y = np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side))
    paths = []
    for seed in range(DISTINCT):
        generator = np.random.default_rng(seed)
        shape = 128 + 90 * np.cos(3 * x + seed) * np.cos(2 * y)
        pixels = np.clip(shape + generator.normal(0, 1.5, shape.shape), 0, 255).astype(np.uint8)
        paths.append(folder / f"{seed}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


def measure(
    originals: list[Path], files: int, side: int, workers: int, folder: Path
) -> list[dict[str, Any]]:
    """Prepare `files` links to the originals by either command; return the measurements."""
    raw_dir = folder / str(files)
    link_films(originals, files, raw_dir)
    table = raw_dir / "Data_Entry_2017.csv"
    own = ["--images", raw_dir / "images", "--labels", table, "--collection", "linked"]
    size = min(side, 256)
    first = run("chestxray14.py", ["--raw_dir", raw_dir], files, size, workers, folder)
    second = run("from_csv.py", own, files, size, workers, folder)
    second["rate_beside_chestxray14"] = round(
        second["files_per_second"] / first["files_per_second"], 2
    )
    for row in (first, second):
        print(row, flush=True)
    return [first, second]


def run(
    program: str, inputs: list[Any], files: int, image_size: int, workers: int, folder: Path
) -> dict[str, Any]:
    """Run a command on `files` films, to a data set in `folder`; return the measurements."""
    data_dir = tempfile.mkdtemp(dir=folder)
    command = [sys.executable, str(COMMANDS / program), *map(str, inputs)]
    command += ["--data_dir", data_dir, "--workers", str(workers)]
    command += ["--image_size", str(image_size)]
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
    return {
        "command": program,
        "files": files,
        "workers": workers,
        "files_per_second": int(match[1]),
        "files_per_cpu_second": round(files / cpu, 1),
        "seconds_in_all": round(wall, 1),
        "largest_process_mib": round(usage.ru_maxrss / 1024),
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--raw_dir", type=Path, help="use its *.png instead of generated ones")
    parser.add_argument("--side", type=int, default=1024, help="of the generated images, pixels")
    parser.add_argument("--files", type=int, nargs="+", default=[200, 2000])
    parser.add_argument("--workers", type=int, default=available_cores())
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.raw_dir:
            originals = sorted(options.raw_dir.rglob("*.png"))
        else:
            originals = make_originals(folder / "originals", options.side)
        size = sum(path.stat().st_size for path in originals) / len(originals)
        print(f"{len(originals)} images of {size / 1000:.0f} kB on average", flush=True)
        rows = [
            row
            for files in options.files
            for row in measure(originals, files, options.side, options.workers, folder)
        ]
    if options.out:
        kind = "given by --raw_dir" if options.raw_dir else "generated"
        side = options.side
        facts = {"what": f"preparing {side}x{side} PNGs, {kind}", "image_kb": round(size / 1000)}
        facts |= describe_machine("numpy", "opencv-python-headless", "array_record")
        write_rows(options.out, facts, rows)


if __name__ == "__main__":
    main()
