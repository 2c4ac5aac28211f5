"""The forecast of a check beside the run that follows it.

    python benchmarks/check.py [--config configs/demo.py] [--data_dir DATA] [--patients 600]
        [--pairs 3] [--out FILE.json] [-- --config.epochs=2 ...]

Each pair is `python -m agcnn_jax.check`, then `python train.py` with the same options, one after
the other in new folders; all share one cache of compiled programs, which the first check fills.
Without `--data_dir`, phantoms are drawn first. A row has the seconds that the check forecast and
those that the run took from its command to its end; by stage too, from the times of the stages'
results (the first stage includes the start); the gigabytes of checkpoints, and what the check took.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
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
SIZE = 128


def timed(command: list[str], cache: Path) -> tuple[float, float, float]:
    """Run a program of the repository; return its start, its seconds, and its CPU seconds."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    done = subprocess.run(
        [sys.executable, *command],
        cwd=PROJECT,
        env=os.environ | {"XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds, after = time.time() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return began, seconds, cpu


def pair(options: list[str], folder: Path, cache: Path) -> dict[str, Any]:
    """Check, train, and compare."""
    checked, trained = folder / "checked", folder / "trained"
    check = ["-m", "agcnn_jax.check", *options, f"--workdir={checked}"]
    _, check_seconds, check_cpu = timed(check, cache)
    forecast = json.loads((checked / "check.json").read_text())["forecast"]
    began, seconds, _ = timed(["train.py", *options, f"--workdir={trained}"], cache)
    ends = {path.parent.name: path.stat().st_mtime for path in trained.glob("stages/*/result.json")}
    real, last = {}, began
    for name in sorted(ends):
        real[name], last = round(ends[name] - last, 2), ends[name]
    foreseen = {name: 3600 * hours for name, hours in forecast["hours_by_stage"].items()}
    foreseen[min(foreseen)] += forecast["seconds_of_opening"]
    files = [path for path in trained.glob("stages/*/checkpoints/**/*") if path.is_file()]
    return {
        "forecast_seconds": round(3600 * forecast["hours"], 2),
        "run_seconds": round(seconds, 2),
        "ratio": round(3600 * forecast["hours"] / seconds, 3),
        "forecast_by_stage": {name: round(one, 2) for name, one in foreseen.items()},
        "run_by_stage": real,
        "forecast_checkpoints_gigabytes": round(forecast["checkpoints_gigabytes"], 5),
        "run_checkpoints_gigabytes": round(sum(path.stat().st_size for path in files) / 1e9, 5),
        "check_seconds": round(check_seconds, 1),
        "check_cpu_seconds": round(check_cpu, 1),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", default="configs/demo.py")
    parser.add_argument("--data_dir", help="prepared data; otherwise phantoms are drawn")
    parser.add_argument("--patients", type=int, default=600, help="of the phantoms")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("overrides", nargs="*", help="of the config, after --")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, data_dir = Path(name), options.data_dir
        if data_dir is None:
            raw_dir, data_dir = str(folder / "raw"), str(folder / "data")
            generate(Path(raw_dir), options.patients, SIZE, seed=0, workers=available_cores())
            sizes = ["--image_size", str(SIZE)]
            prepare(["--raw_dir", raw_dir, "--data_dir", data_dir, *sizes])
        command = [f"--config={options.config}", f"--config.data.dir={data_dir}"]
        command += options.overrides
        rows = []
        for number in range(options.pairs):
            rows.append(pair(command, folder / f"pair{number}", folder / "cache"))
            print(rows[-1], flush=True)
    facts = {
        "what": __doc__.split("\n")[0],
        "config": options.config,
        "overrides": options.overrides,
        "patients": None if options.data_dir else options.patients,
        "ratio": spread([row["ratio"] for row in rows], 3),
        "load_average": round(os.getloadavg()[0], 1),
        **describe_machine("jax"),
    }
    print(facts["ratio"])
    if options.out:
        write_rows(options.out, facts, rows)


if __name__ == "__main__":
    main()
