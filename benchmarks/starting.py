"""Seconds from the command to the first step of training, without and with compiled programs.

    python benchmarks/starting.py [--config configs/demo.py] [--data_dir DATA] [--rounds 5]
        [--out FILE.json]

Starts `python train.py --config ...` in new folders until `metrics.jsonl` has its first line, which
is written while the second step runs. The first start finds no compiled programs, the others those
that it has kept. Without `--data_dir`, phantoms are drawn first. Beside it, the seconds that
importing takes, and whether JAX refused programs that were compiled on this machine, as jax 0.10.1
does on some processors (https://github.com/jax-ml/jax/issues/38445).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # the package need not be installed

from reporting import describe_machine, spread, write_rows

from agcnn_jax.data_prep.chestxray14 import main as prepare
from agcnn_jax.data_prep.phantoms import generate
from agcnn_jax.runtime.machine import available_cores

PROJECT = Path(__file__).resolve().parents[1]
PATIENTS, SIZE = 46, 128
REFUSED = "Target machine feature"
"""What XLA logs of a compiled program that it does not run here."""


def first_step(command: list[str], workdir: Path, cache: Path) -> tuple[float, bool]:
    """Return the seconds until the log's first line, and whether compiled programs were refused."""
    log, output = workdir / "metrics.jsonl", workdir.with_suffix(".txt")
    with output.open("w") as file:
        started = time.monotonic()
        process = subprocess.Popen(
            [*command, "--workdir", str(workdir)],
            cwd=PROJECT,
            env=os.environ | {"XDG_CACHE_HOME": str(cache)},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        while not (log.exists() and log.stat().st_size):
            if process.poll() is not None:
                raise SystemExit(f"training ended before its second step:\n{output.read_text()}")
            time.sleep(0.01)
        seconds = time.monotonic() - started
        process.kill()
        process.wait()
    return seconds, REFUSED in output.read_text()


def process_seconds(*arguments: str) -> float:
    """Return the seconds of a Python process that does what the arguments say."""
    started = time.monotonic()
    subprocess.run([sys.executable, *arguments], cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", default="configs/demo.py")
    parser.add_argument("--data_dir", help="prepared data; otherwise phantoms are drawn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, data_dir = Path(name), options.data_dir
        if data_dir is None:
            raw_dir, data_dir = str(folder / "raw"), str(folder / "data")
            generate(Path(raw_dir), PATIENTS, size=SIZE, seed=0, workers=available_cores())
            sizes = ["--image_size", str(SIZE)]
            prepare(["--raw_dir", raw_dir, "--data_dir", data_dir, *sizes])
        command = [sys.executable, "train.py", "--config", options.config]
        command += [f"--config.data.dir={data_dir}", "--config.log_every=1"]
        starts = [
            first_step(command, folder / f"run{number}", folder / "cache")
            for number in range(options.rounds + 1)
        ]
        imports, answers = (
            [process_seconds(*arguments) for _ in range(options.rounds)]
            for arguments in (("-c", "import agcnn_jax.training.loop"), ("train.py", "--help"))
        )
    (empty, _), *later = starts
    row: dict[str, Any] = {
        "config": options.config,
        "nothing_compiled": round(empty, 1),
        **spread([seconds for seconds, _ in later], 2),
        "of_which_imports": round(statistics.median(imports), 2),
        "help": round(statistics.median(answers), 2),
        "programs_refused": any(refused for _, refused in later),
    }
    print(row)
    if options.out:
        facts = {"what": __doc__.split("\n")[0], "unit": "seconds"}
        write_rows(options.out, facts | describe_machine("jax"), [row])


if __name__ == "__main__":
    main()
