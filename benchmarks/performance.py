"""Writes docs/performance.md from the files of benchmarks/results/.

    python benchmarks/performance.py [--check]

With --check it writes nothing, and says whether the page is that of the files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

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
}
COLUMNS = ("Case", "images", "side", "img/s", "slowest to fastest", "here / it", "limit's share")

Row = dict[str, Any]


def beside_pytorch(found: Row) -> str:
    """Make the table of a file of `cpu.py` or `gpu.py`."""
    machine = found["device"] + (f", {found['instructions']}" if "instructions" in found else "")
    machine += f", {found['cores']} cores, Python {found['python']}, jax {found['jax']}, "
    machine += f"PyTorch {found['torch']}"
    backbone = found["rows"][0]["backbone"]
    peaks = found["rows"][-1]["peaks"]
    limits = ", ".join(f"{name.replace('_', ' ')} {value:,.4g}" for name, value in peaks.items())
    lines = [
        line
        for row in found["rows"]
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
        f"{result['images_per_second']:,.4g}",
        f"{result['slowest']:,.4g} to {result['fastest']:,.4g}",
        f"{result['ratio']:.2f}" if "ratio" in result else "",
        ", ".join(shares),
    ]


def plain(found: Row) -> str:
    """Make the table of any other file: what, machine and versions, and its rows as they are."""
    machine = found.get("machine") or found.get("devices") or found.get("device")
    versions = found.get("versions") or {key: found[key] for key in ("jax",) if key in found}
    if isinstance(versions, dict):
        versions = ", ".join(f"{name} {version}" for name, version in versions.items())
    if isinstance(machine, dict):
        machine = ", ".join(f"{name} {value}" for name, value in machine.items())
    rows = found["rows"]
    columns = list(dict.fromkeys(key for row in rows for key in row if simple(rows, key)))
    cells = [[cell(row.get(column)) for column in columns] for row in rows]
    titles = [column.replace("_", " ") for column in columns]
    return f"{machine}; {versions}.\n\n{table(titles, cells)}"


def simple(rows: list[Row], key: str) -> bool:
    """Tell whether a column holds numbers and words alone."""
    return not any(isinstance(row.get(key), list | dict) for row in rows)


def cell(value: object) -> str:
    """Write a value; numbers with four digits."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def table(titles: Iterable[str], rows: list[list[str]]) -> str:
    """Make a Markdown table."""
    titles = list(titles)
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page() -> str:
    """Put the tables into the page's text, where it names their files."""
    made = []
    for line in WORDS.read_text().splitlines():
        if not line.startswith("@"):
            made.append(line)
            continue
        paths = sorted(RESULTS.glob(line[1:]))
        if not paths:
            made.append("Not yet measured.")
        for path in paths:
            found = json.loads(path.read_text())
            render = beside_pytorch if path.name.startswith(("cpu_", "gpu_")) else plain
            made += [f"`benchmarks/results/{path.name}`: {render(found)}", ""]
    return "\n".join(made).rstrip() + "\n"


def main() -> None:
    """Write or check the page."""
    parser = OneLineParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    if not options.check:
        PAGE.write_text(page())
    elif PAGE.read_text() != page():
        raise UserError(f"{PAGE} is not that of benchmarks/results; run benchmarks/performance.py")


if __name__ == "__main__":
    run(main)
