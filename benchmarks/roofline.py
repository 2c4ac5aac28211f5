"""The time that a TPU's arithmetic, memory and interconnect allow for a program, without a TPU.

    python benchmarks/roofline.py [--generations v5e] [--chips 4] [--backbones densenet121]
        [--parts global predict] [--remat] [--out FILE]

libtpu's compiler (`make install EXTRA=tpu`) optimises training steps and prediction for chips
that are not there. The optimised program says how many operations a chip computes, how many bytes
it reads and writes, and what it exchanges with the others. Each divided by the chip's peak is a
time that the program cannot beat; the longest is the bound. Real programs overlap the three only in
part and wait for each exchange, so they take longer. Rows that FILE has are not compiled again.

A row takes about a minute: once the optimised program is written, its compilation is stopped, since
generating its code would take eight minutes more.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import re
import sys
import tempfile
import time
from importlib.metadata import version
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import jax
from compiling import CONFIGS, STAGES, find_devices, prediction_program, training_program
from jaxlib import _hlo, _jax  # type: ignore[attr-defined]  # what JAX itself counts with
from optimised_hlo import everywhere, operations, parse, traffic
from reporting import Row, read_rows, table, write_rows

from agcnn_jax.runtime.errors import OneLineParser, UserError, run


class Chip(NamedTuple):
    """Peak figures of a chip, from docs.cloud.google.com/tpu/docs/v5e, /v5p and /v6e."""

    flops: float  # bfloat16 operations a second; float32 products have bfloat16 factors by default
    memory: float  # bytes of HBM a second
    link: float  # bytes a second, one way, of one of the ports


CHIPS = {
    "v5e": Chip(197e12, 819e9, 50e9),
    "v5p": Chip(459e12, 2765e9, 100e9),
    "v6e": Chip(918e12, 1640e9, 100e9),
}

SLICES = {
    ("v5e", 4): ("2x2", 2),
    ("v5e", 64): ("8x8", 2),
    ("v5p", 4): ("2x2x1", 2),
    ("v5p", 64): ("4x4x4", 6),
    ("v6e", 4): ("2x2", 2),
    ("v6e", 64): ("8x8", 2),
}
"""Shape of so many chips, and connected ports of a chip in the corner. Only whole dimensions of a
torus wrap around: 16 chips of v5e and v6e, 4 of v5p."""

PARTS = (*STAGES, "predict")
BATCH = {"resnet50": 128, "densenet121": 64}
CASE = ("generation", "chips", "backbone", "part", "dtype", "remat", "batch_per_chip")


def study(case: Row) -> Row:
    """Optimise the program of a case and read its bounds."""
    started = time.monotonic()
    text, plan = optimise(case)
    row = case | {"seconds": round(time.monotonic() - started)}
    module = _hlo.hlo_module_from_text(text)
    row["flops"] = _jax.hlo_module_cost_analysis(jax.devices("cpu")[0].client, module)["flops"]
    row["hbm_bytes"] = sum(traffic(parse(text)).values())
    row["accessed_bytes"] = sum(traffic(parse(everywhere(text))).values())
    row["planned_memory"] = int(re.search(r"Total bytes: (\d+)", plan)[1])  # type: ignore[index]
    row |= operations(parse(text))
    return row | bounds(row)


def optimise(case: Row) -> tuple[str, str]:
    """Return the text of a case's optimised program, and XLA's plan of its memory."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XLA_FLAGS"] = f"--xla_dump_to={folder} --xla_dump_hlo_as_text"
        child = multiprocessing.get_context("spawn").Process(target=compile_case, args=(case,))
        child.start()
        try:
            text = wait_for_program(Path(folder), child)
        finally:
            child.kill()
        (plan,) = Path(folder).glob("*after_optimizations-memory-usage-report.txt")
        return text, plan.read_text()


def wait_for_program(folder: Path, child: BaseProcess) -> str:
    """Return the text of the program once it is written and grows no more."""
    before = ""
    while True:
        alive = child.is_alive()
        child.join(2)
        paths = folder.glob("*after_optimizations_after_buffer_assignment.txt")
        text = next((path.read_text() for path in paths), "")
        if text == before and text.rstrip().endswith("}"):
            return text
        if not alive and not text:
            raise UserError(f"compiling failed with status {child.exitcode}; see above")
        before = text


def compile_case(case: Row) -> None:
    """Compile the program of a case, which XLA's flags make it dump."""
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # the chips are not there to share
    shape, _ = SLICES[case["generation"], case["chips"]]
    devices = find_devices("tpu", f"{case['generation']}:{shape}")
    make = prediction_program if case["part"] == "predict" else training_program
    program, arguments = make(
        case | {"stage": case["part"], "batch_per_device": case["batch_per_chip"]}, devices
    )
    program.lower(*arguments.eval_shape()).compile()


def bounds(row: Row) -> Row:
    """Divide a program's work by the chip's peaks.

    Each chip of n sends 2 (n - 1) / n of what is reduced, whatever the algorithm (Patarasuk and
    Yuan, 2009), over as many links as its corner has. Other exchanges send at most as much.
    """
    chip = CHIPS[row["generation"]]
    _, ports = SLICES[row["generation"], row["chips"]]
    exchanged = sum(counts["bytes"] for counts in row["collectives"].values())
    sent = 2 * (row["chips"] - 1) / row["chips"] * exchanged
    milliseconds = {
        "arithmetic": 1e3 * row["flops"] / chip.flops,
        "memory": 1e3 * row["hbm_bytes"] / chip.memory,
        "interconnect": 1e3 * sent / (ports * chip.link),
    }
    limit = max(milliseconds, key=lambda name: milliseconds[name])
    return {
        "milliseconds": {name: round(value, 3) for name, value in milliseconds.items()},
        "limit": limit,
        "images_per_second_per_chip": round(1e3 * row["batch_per_chip"] / milliseconds[limit]),
    }


def as_markdown(rows: list[Row]) -> str:
    """Format rows as Markdown."""
    titles = ["chips", "backbone", "part", "images a chip", "TFLOP", "HBM GB", "accessed GB"]
    titles += ["planned GiB", "all-reduces", "ms: arithmetic", "memory", "interconnect"]
    titles += ["images/s a chip, at most"]
    lines = []
    for row in rows:
        name = f"{row['part']}, {row['dtype']}" + ", remat" * row["remat"]
        reduced = row["collectives"].get("all-reduce", {"count": 0})["count"]
        cells = [f"{row['chips']} x {row['generation']}", row["backbone"], name]
        cells += [row["batch_per_chip"], f"{row['flops'] / 1e12:.2f}"]
        cells += [f"{row[name] / 1e9:.1f}" for name in ("hbm_bytes", "accessed_bytes")]
        cells += [f"{row['planned_memory'] / 2**30:.2f}", reduced]
        cells += [f"{value:.2f}" for value in row["milliseconds"].values()]
        cells.append(f"{row['images_per_second_per_chip']:,}")
        lines.append(cells)
    return table(titles, lines, left=3)


def main() -> None:
    """Compile the requested cases and print the table."""
    parser = OneLineParser(about=__doc__.split("\n")[0])
    parser.add_argument("--generations", nargs="+", choices=CHIPS, default=list(CHIPS))
    parser.add_argument("--chips", nargs="+", type=int, choices=(4, 64), default=[4, 64])
    parser.add_argument("--backbones", nargs="+", choices=CONFIGS, default=list(CONFIGS))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16"])
    parser.add_argument("--remat", action="store_true", help="with config.remat")
    parser.add_argument("--batch_size", type=int, help="images a chip; default: 128 or 64")
    parser.add_argument("--out", type=Path, help="JSON file to create or extend")
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    versions = {name: version(name) for name in ("jax", "libtpu")}
    facts = {"what": __doc__.split("\n")[0], "machine": "compiler", "versions": versions}
    rows = read_rows(options.out, facts)
    choices = (options.generations, options.chips, options.backbones, options.parts)
    for values in itertools.product(*choices, options.dtypes):
        batch = options.batch_size or BATCH[values[2]]
        case = dict(zip(CASE, (*values, options.remat, batch), strict=True))
        if any(row.items() >= case.items() for row in rows):
            continue
        rows.append(study(case))
        print(rows[-1], file=sys.stderr, flush=True)
        if options.out:
            write_rows(options.out, facts, rows)
    print(as_markdown(rows))


if __name__ == "__main__":
    run(main)
