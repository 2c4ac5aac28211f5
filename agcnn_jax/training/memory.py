"""Summaries of a run at its first step: its parameters, and the memory that a step needs."""

from __future__ import annotations

import math
from typing import Any

import jax

from agcnn_jax.models.agcnn import BRANCHES, Variables
from agcnn_jax.runtime.errors import UserError

GIB = 2**30
PARTS = {"argument": "arguments", "output": "outputs", "temp": "scratch", "alias": "reused"}
"""The parts of a step's memory as XLA and as messages name them."""


def parameter_table(variables: Variables) -> str:
    """List the shape and the size of each parameter, and the totals; shapes alone suffice."""
    rows = [("parameter", "shape", "count")]
    total = 0
    for branch in sorted(variables["params"], key=BRANCHES.index):
        leaves, _ = jax.tree.flatten_with_path(variables["params"][branch])
        counts = [math.prod(leaf.shape) for _, leaf in leaves]
        for (path, leaf), count in zip(leaves, counts, strict=True):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            rows.append((f"{branch}/{name}", "x".join(map(str, leaf.shape)), f"{count:,}"))
        rows.append((f"{branch}, total", "", f"{sum(counts):,}"))
        total += sum(counts)
    rows.append(("all branches", "", f"{total:,}"))
    width, wide, long = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join(f"{a:{width}}  {b:{wide}}  {c:>{long}}" for a, b, c in rows)


def step_memory(compiled: jax.stages.Compiled) -> dict[str, int] | None:
    """Read what XLA plans for a compiled step on one device, in bytes.

    Returns:
        `argument`, `output`, `temp` and `alias`, the part of the outputs that takes the place of
        donated arguments; `total`, which is argument + output + temp - alias; and `peak`, the most
        that is in use at once: `total` where XLA does not report it. None without any analysis.
    """
    analysis: Any = compiled.memory_analysis()
    if analysis is None:
        return None
    memory = {part: int(getattr(analysis, f"{part}_size_in_bytes")) for part in PARTS}
    total = sum(memory.values()) - 2 * memory["alias"]
    peak = int(getattr(analysis, "peak_memory_in_bytes", 0))
    return memory | {"total": total, "peak": peak or total}


def check_memory(needed: dict[str, int], device: jax.Device) -> None:
    """Raise `UserError` if a step's `step_memory` does not fit into a device that it runs on.

    A device that reports no limit, such as a CPU, is not checked.
    """
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit and needed["peak"] > limit:
        parts = ", ".join(f"{words} {needed[part] / GIB:.2f}" for part, words in PARTS.items())
        raise UserError(
            f"a training step needs {needed['peak'] / GIB:.2f} GiB ({parts}) and {device} allows "
            f"{limit / GIB:.2f} GiB; raise --config.accumulate, lower --config.batch_size or "
            "--config.input_size, use --config.dtype=bfloat16, or use more devices"
        )
