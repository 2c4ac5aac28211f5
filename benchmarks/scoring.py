"""Seconds that `eval.py --predictions` takes for the test predictions of another program.

    python benchmarks/scoring.py --predictions P.csv.gz --labels Data_Entry_2017_v2020.csv.gz
        [--rounds 5] [--out FILE.json]

Times the command alone, which prints the table; with `--validation` and `--out`, which also
chooses thresholds and writes tables, figures and the report; and with `--compare`, which tests the
differences from another model. The predictions of validation images are random, for half as many
other images of the labels; the other model's are the same predictions with noise.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1]))  # the package need not be installed

from reporting import describe_machine, spread, write_rows

from agcnn_jax.data.text import read_delimited

EVAL = Path(__file__).resolve().parents[1] / "eval.py"


def write_predictions(path: Path, header: list[str], images: list[str], values: Any) -> None:
    """Write one row an image: its name, and its probability for each finding."""
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(header)
        table.writerows([image, *row] for image, row in zip(images, values.tolist(), strict=True))


def make_others(predictions: Path, labels: Path, folder: Path) -> int:
    """Write another model's predictions, and some of validation images; count the images."""
    (_, header), *rows = read_delimited(predictions).rows()
    images = [row[0] for _, row in rows]
    values = np.array([row[1:] for _, row in rows], np.float64)
    random, scored = np.random.default_rng(0), set(images)
    noisy = np.clip(values + random.normal(0, 0.01, values.shape), 0, 1)
    write_predictions(folder / "compare.csv", header, images, noisy)
    _, *table = read_delimited(labels).rows()
    others = [row[0] for _, row in table if row[0] not in scored][: len(images) // 2]
    probabilities = random.random((len(others), values.shape[1]))
    write_predictions(folder / "validation.csv", header, others, probabilities)
    return len(images)


def seconds(command: list[str]) -> float:
    """Run a command; return how long it took."""
    started = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--predictions", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    command = [sys.executable, str(EVAL), "--predictions", str(options.predictions)]
    command += ["--labels", str(options.labels)]
    with tempfile.TemporaryDirectory() as name:
        images = make_others(options.predictions, options.labels, Path(name))
        times: dict[str, list[float]] = {"table": [], "everything": [], "comparison": []}
        for turn in range(options.rounds):
            everything = [f"--validation={name}/validation.csv", f"--out={name}/{turn}"]
            times["table"].append(seconds(command))
            times["everything"].append(seconds([*command, *everything]))
            times["comparison"].append(seconds([*command, f"--compare={name}/compare.csv"]))
    rows = [{"what": what, "images": images, **spread(each)} for what, each in times.items()]
    print(*rows, sep="\n")
    if options.out:
        facts = {"what": __doc__.split("\n")[0], "unit": "seconds"}
        facts |= describe_machine("numpy", "scipy", "matplotlib")
        write_rows(options.out, facts, rows)


if __name__ == "__main__":
    main()
