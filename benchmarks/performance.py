"""Writes docs/performance.md from the files of benchmarks/results/.

    python benchmarks/performance.py [--check]

With --check it writes nothing, and says whether the page is that of the files.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # the package need not be installed

from reporting import Row, table

from agcnn_jax.runtime.errors import OneLineParser, UserError, run

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"
WORDS = Path(__file__).with_name("performance.txt")

PARTS = {
    ("predict", "global"): "forward pass",
    ("predict", "global+local+fusion"): "whole prediction",
    ("crop", "local"): "feature map to crops",
}
SIDES = {
    "jax": "here",
    "jax_host_cropper": "here, host cropper",
    "jax_deterministic": "here, deterministic",
    "torch_compile": "torch.compile",
    "torch_eager": "PyTorch",
    "torch_large_pages": "PyTorch, large pages",
}
COLUMNS = ("Case", "images", "side", "img/s", "slowest to fastest", "here / it", "limit's share")


def beside_pytorch(file: Row) -> str:
    """Make the table of a file of `cpu.py` or `gpu.py`."""
    machine = file["device"] + (f", {file['instructions']}" if "instructions" in file else "")
    machine += f", {file['cores']} cores, Python {file['python']}, jax {file['jax']}, "
    machine += f"PyTorch {file['torch']}"
    backbone = file["rows"][0]["backbone"]
    peaks = file["rows"][-1]["peaks"]
    limits = ", ".join(f"{name.replace('_', ' ')} {value:,.4g}" for name, value in peaks.items())
    lines = [
        line
        for row in file["rows"]
        for side, result in row["results"].items()
        if (line := side_cells(row, side, result))
    ]
    return f"**{backbone}**: {machine}. Limits measured: {limits}.\n\n{table(COLUMNS, lines)}"


def side_cells(row: Row, side: str, result: Row) -> list[str] | None:
    """Make the cells of a side of a case; none for a side that failed."""
    if "error" in result:
        return None
    case = PARTS.get((row["part"], row["stage"]), f"training step, {row['stage']}")
    shares = [
        f"{result[key]:.0%} of {limit}"
        for limit in ("products", "copying")
        if (key := f"share_of_{limit}") in result
    ]
    return [
        f"{case}, {row['dtype']}",
        str(row["batch"]),
        SIDES[side],
        cell(result["images_per_second"]),
        f"{cell(result['slowest'])} to {cell(result['fastest'])}",
        f"{result['ratio']:.2f}" if "ratio" in result else "",
        ", ".join(shares),
    ]


def roofline(file: Row) -> str:
    """Make the table of `roofline.py`'s file."""
    titles = ["chips", "backbone", "program", "images a chip", "TFLOP", "GB of memory"]
    titles += ["GiB planned", "collectives", "ms: arithmetic, memory, interconnect"]
    titles += ["images a second a chip"]
    cells = [
        [
            f"{row['chips']} {row['generation']}",
            row["backbone"],
            row["part"] + (", remat" if row["remat"] else ""),
            cell(row["batch_per_chip"]),
            cell(row["flops"] / 1e12),
            cell(row["hbm_bytes"] / 1e9),
            cell(row["planned_memory"] / 2**30),
            ", ".join(f"{one['count']} {kind}" for kind, one in row["collectives"].items()),
            ", ".join(cell(float(value)) for value in row["milliseconds"].values()),
            cell(row["images_per_second_per_chip"]),
        ]
        for row in sorted(
            file["rows"], key=lambda row: (row["generation"], row["chips"], row["backbone"])
        )
    ]
    return f"{described(file)}\n\n{table(titles, cells)}"


def plain(file: Row) -> str:
    """Make the tables of any other file: machine and versions, its rows, and its other lists."""
    lists = [value for value in file.values() if isinstance(value, list)]
    note = f" Note: {file['note']}." if "note" in file else ""
    return f"{described(file)}{note}\n\n" + "\n\n".join(map(rows_as_they_are, lists))


def described(file: Row) -> str:
    """Name the machine and the versions of a file, in a sentence."""
    machine = file.get("machine") or file.get("devices") or file.get("device")
    versions = file.get("versions") or {key: file[key] for key in ("jax",) if key in file}
    return f"{cell(machine)}; {cell(versions)}."


def rows_as_they_are(rows: list[Row]) -> str:
    """Make a table with a column for each key."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[cell(row.get(column)) for column in columns] for row in rows]
    return table([column.replace("_", " ") for column in columns], cells)


def cell(value: object) -> str:
    """Write a value: numbers with four digits, measurements as `median (lowest to highest)`."""
    if value is None:
        return ""
    if isinstance(value, dict):
        if "median" in value:
            return f"{cell(value['median'])} ({cell(value['lowest'])} to {cell(value['highest'])})"
        return ", ".join(f"{name} {cell(one)}" for name, one in value.items())
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def page() -> str:
    """Put the tables into the page's text, where it names their files."""
    parts = []
    for line in WORDS.read_text().splitlines():
        if not line.startswith("@"):
            parts.append(line)
            continue
        paths = sorted(RESULTS.glob(line[1:]))
        if not paths:
            parts.append("Not yet measured.")
        for path in paths:
            file = json.loads(path.read_text())
            render = RENDERERS.get(path.name.split("_")[0].removesuffix(".json"), plain)
            parts += [f"`benchmarks/results/{path.name}`: {render(file)}", ""]
    return "\n".join(parts).rstrip() + "\n"


RENDERERS = {"cpu": beside_pytorch, "gpu": beside_pytorch, "roofline": roofline}


def main() -> None:
    """Write or check the page."""
    parser = OneLineParser(about=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    if not options.check:
        PAGE.write_text(page())
    elif PAGE.read_text() != page():
        raise UserError(f"{PAGE} is not that of benchmarks/results; run benchmarks/performance.py")


if __name__ == "__main__":
    run(main)
