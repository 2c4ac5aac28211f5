"""Memory of one device that a training step takes, as the compiler plans it.

    python benchmarks/sizing.py [--topology v5e:2x2] [--largest] [--measure STEPS] [--out FILE]

Compiles the training step for the devices at hand or, with --topology, for absent TPUs
(`make install EXTRA=tpu`), and prints XLA's memory analysis of one device in GiB: total is
argument + output + temp - alias, and peak is the most in use at once. Keeps the rows of --out.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from compiling import CONFIGS, STAGES, find_devices, training_program
from reporting import Row, processor, read_rows, table, write_rows

from agcnn_jax.runtime.errors import OneLineParser, run

CASE = ("backbone", "stage", "dtype", "remat", "accumulate", "batch_per_device")
PARTS = ("argument", "output", "temp", "alias", "generated_code")
IN_BYTES = (*PARTS, "total", "peak", "limit")


def compile_case(case: Row, devices: list[Any], steps: int) -> Row:
    """Compile a case, read the compiler's memory analysis in bytes, and run `steps` if not 0."""
    step, arguments = training_program(case, devices)
    started = time.monotonic()
    try:
        compiled = step.lower(*arguments.eval_shape()).compile()
    except jax.errors.JaxRuntimeError as error:
        if not (needs := re.search(r"([\d.]+)G\)? (?:of |exceeds .*\()([\d.]+)G", str(error))):
            raise
        total, limit = (int(float(number) * 2**30) for number in needs.groups())
        return case | {"fits": False, "total": total, "limit": limit}
    row = case | {"fits": True, "compile_seconds": round(time.monotonic() - started)}
    memory = compiled.memory_analysis()
    row |= {part: getattr(memory, f"{part}_size_in_bytes") for part in PARTS}
    row["total"] = row["argument"] + row["output"] + row["temp"] - row["alias"]
    row |= {"peak": memory.peak_memory_in_bytes} if devices[0].platform != "cpu" else {}
    if steps:
        state, frozen, batch = arguments()
        times = []
        for _ in range(steps + 1):  # the first warms up
            state, _ = jax.block_until_ready(compiled(state, frozen, batch))
            times.append(time.monotonic())
        rate = steps * case["batch_per_device"] * len(devices) / (times[-1] - times[0])
        row |= {"steps": steps, "images_per_second": round(rate, 2)}
    return row


def next_size(rows: list[Row]) -> int:
    """Bisect towards the largest multiple of 16 that fits; return 0 once it is known."""
    fits = max((row["batch_per_device"] for row in rows if row["fits"]), default=0)
    fails = min((row["batch_per_device"] for row in rows if not row["fits"]), default=fits)
    return middle if (middle := (fits + fails) // 32 * 16) > fits else 0


def machine(devices: list[Any]) -> str:
    """Name the devices, a CPU by its model."""
    if devices[0].platform != "cpu":
        return f"{len(devices)} x {devices[0].device_kind}"
    return f"{os.cpu_count()} cores of {processor()}"


def as_markdown(rows: list[Row]) -> str:
    """Format rows as Markdown: bytes in GiB, missing values as dashes."""
    keys = list(dict.fromkeys(itertools.chain(*rows)))
    gib = [{key: f"{row[key] / 2**30:.2f}" for key in row if key in IN_BYTES} for row in rows]
    cells = [row | sizes for row, sizes in zip(rows, gib, strict=True)]
    return table(keys, [[row.get(key, "-") for key in keys] for row in cells])


def main() -> None:
    """Compile the requested cases and print the table."""
    parser = OneLineParser(about=__doc__.split("\n")[0])
    parser.add_argument("--platform", choices=("cpu", "gpu", "tpu"), default="cpu")
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--topology", help="absent TPUs, such as v5e:2x2")
    either.add_argument("--measure", type=int, default=0, metavar="STEPS", help="also run them")
    parser.add_argument("--backbones", nargs="+", choices=CONFIGS, default=list(CONFIGS))
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--remat", action="store_true", help="with config.remat")
    parser.add_argument("--accumulate", type=int, nargs="+", default=[1], help="micro-batches")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[16, 32, 64, 128, 256])
    parser.add_argument("--largest", action="store_true", help="bisect for the largest fit")
    parser.add_argument("--out", type=Path, help="JSON file to create or extend")
    options = parser.parse_args()
    devices = find_devices(options.platform, options.topology)
    packages = ("jax", "libtpu") if options.topology else ("jax",)
    made_with = {"devices": machine(devices)} | {name: version(name) for name in packages}
    rows = read_rows(options.out, made_with)

    def add(*values: Any) -> Row:
        case = dict(zip(CASE, values, strict=True))
        wanted = case | ({"steps": options.measure} if options.measure else {})
        for row in rows:
            if row.items() >= wanted.items():
                return row
        rows.append(compile_case(case, devices, options.measure))
        print(rows[-1], file=sys.stderr, flush=True)
        if options.out:
            write_rows(options.out, made_with, rows)
        return rows[-1]

    choices = (options.backbones, options.stages, options.dtypes, [options.remat])
    for values in itertools.product(*choices, options.accumulate):
        sizes = [add(*values, size) for size in options.batch_sizes]
        while options.largest and (size := next_size(sizes)):
            sizes.append(add(*values, size))
    print(f"{made_with['devices']}\n\n{as_markdown(rows)}")


if __name__ == "__main__":
    run(main)
