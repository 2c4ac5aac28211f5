"""Measures cases on both sides, and keeps the results; for `cpu.py` and `gpu.py`."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # the package need not be installed

from reporting import Row, read_rows, write_rows
from sides import Failure, Processes, answer, process_of

from agcnn_jax.runtime.errors import OneLineParser, UserError

BACKBONES = ("resnet50", "densenet121", "resnet_small")
JOINT = "global+local+fusion"
COLUMNS = ("part", "stage", "dtype", "smaller", "sides")
"""What a case is; `smaller` is how many sizes below the largest batch that fits."""

ROUNDS, ROUND_SECONDS = 5, 0.5
STARTING, MEASURING = 45.0, 20.0
"""Seconds that must be left to start a case, and those kept to measure what is compiled by then."""

Plan = Sequence[tuple[str, str, str, int, tuple[str, ...]]]


def prepare(processes: Processes, case: Row, until: float) -> dict[str, Any]:
    """Compile a case on all its sides at once; sides that are late are left out."""
    # Eager PyTorch needs the most memory and no compilation: it tells first what does not fit.
    eager = [side for side in case["sides"] if side == "torch_eager"]
    futures, answers = {}, {}
    try:
        for side in eager:
            answers[side] = answer(processes.ask(side, "prepare", side, case), until)
            if isinstance(answers[side], Failure) and answers[side].out_of_memory:
                return answers
        for side in case["sides"]:
            if side not in eager:
                futures[side] = processes.ask(side, "prepare", side, case)
        for side, future in futures.items():
            answers[side] = answer(future, until)
    except TimeoutError:
        answers |= {side: one.result() for side, one in futures.items() if one.done()}
    return answers


def run_in_turn(processes: Processes, sides: list[str], until: float) -> dict[str, Any]:
    """Time the sides in turn; return seconds a step of each round, or a failure, by side."""
    steps: dict[str, int] = {}
    seconds: dict[str, Any] = {side: [] for side in sides}
    for _ in range(1 + ROUNDS):
        for side in sides:
            if isinstance(seconds[side], Failure) or time.monotonic() > until:
                continue
            try:
                took = answer(processes.ask(side, "run", side, steps.get(side, 1)), until + 10)
            except TimeoutError:
                continue
            if isinstance(took, Failure):
                seconds[side] = took
            elif side in steps:
                seconds[side].append(took)
            else:  # the first round tells how many steps make a round
                steps[side] = min(500, max(1, round(ROUND_SECONDS / took)))
    return {side: rounds for side, rounds in seconds.items() if rounds}


def summary(case: Row, facts: Row, seconds: Any, flops: float, peaks: Row) -> Row:
    """Summarise a side's rounds: images a second, and the shares of the card's limits."""
    if isinstance(seconds, Failure):
        return {"error": seconds.error}
    middle = statistics.median(seconds)
    rates = [round(case["batch"] / one, 1) for one in (middle, max(seconds), min(seconds))]
    row = dict(zip(("images_per_second", "slowest", "fastest"), rates, strict=True)) | facts
    if flops:
        products = flops * rates[0] / peaks[f"{case['dtype']}_tflops"] / 1e12
        row["share_of_products"] = round(products, 3)
    if facts.get("bytes"):
        copying = facts["bytes"] / middle / peaks["copy_gb_per_second"] / 1e9
        row["share_of_copying"] = round(copying, 3)
    return row


def measure(processes: Processes, case: Row, peaks: Row, end: float, traces: Path | None) -> Row:
    """Measure a case at one batch size.

    Its row has the results by side, or what went wrong. It is not `finished` if a side was late,
    and does not fit (`fits`) if a side ran out of memory.
    """
    flops = answer(processes.ask("torch", "flops", case), end)
    prepared = prepare(processes, case, end - MEASURING)
    ready = [side for side in case["sides"] if isinstance(prepared.get(side), dict)]
    timed = {} if doomed(prepared) else run_in_turn(processes, ready, end - 3)
    results = {
        side: {"error": one.error}
        for side, one in (prepared | timed).items()
        if isinstance(one, Failure)
    }
    for side in set(timed) - set(results):
        results[side] = summary(case, prepared[side], timed[side], flops, peaks)
    ours: Any = results.get("jax", {}).get("images_per_second")
    for side, result in results.items():
        if ours and side != "jax" and "error" not in result:
            result["ratio"] = round(ours / result["images_per_second"], 2)
    fits = not doomed(prepared | timed)
    finished = not fits or set(results) == set(case["sides"])
    results = {side: results[side] for side in case["sides"] if side in results}
    row = case | {"results": results, "peaks": peaks, "fits": fits, "finished": finished}
    if ours:
        name = "_".join(str(case[key]) for key in ("backbone", "part", "stage", "dtype", "batch"))
        keep = str(traces / name) if traces else None
        with contextlib.suppress(TimeoutError):
            traced = answer(processes.ask("jax", "longest_operations", "jax", keep), end)
            row["longest_operations"] = traced.error if isinstance(traced, Failure) else traced
    for side, result in results.items():
        if fits and "error" in result:  # what a failure leaves behind must not spoil the next case
            processes.end(process_of(side))
    return row


def file_stem(made_with: Row) -> str:
    """Name a card, or a CPU's instructions and the version of jax, which differs by Python's."""
    if made_with["device"] == "cpu":
        name = f"cpu {made_with['instructions']} jax {made_with['jax']}"
    else:
        name = "gpu " + made_with["device"].removeprefix("NVIDIA ")
    return re.sub(r"\W+", "_", name.lower())


def doomed(answers: Row) -> bool:
    """Tell whether a side ran out of memory."""
    return any(isinstance(one, Failure) and one.out_of_memory for one in answers.values())


def line(row: Row) -> str:
    """Say a row's results in a line."""
    parts = []
    for side, result in row["results"].items():
        if "error" in result:
            parts.append(f"{side}: {result['error'][:100]}")
            continue
        more = [f"{result['slowest']:,.0f} to {result['fastest']:,.0f}"]
        for limit in ("products", "copying"):
            if f"share_of_{limit}" in result:
                more += [f"{result[f'share_of_{limit}']:.0%} of {limit}"]
        more += [f"jax is {result['ratio']} x"] if "ratio" in result else []
        parts.append(f"{side} {result['images_per_second']:,.0f} img/s ({', '.join(more)})")
    name = f"{row['part']} {row['stage']} {row['dtype']}, {row['batch']} images"
    return f"{name}: " + "; ".join(parts or ["not finished in time"])


def measure_all(plan: Plan, options: Any, processes: Processes, end: float) -> None:
    """Measure the cases that the file lacks, until the time is up."""
    dtypes = sorted({case[COLUMNS.index("dtype")] for case in plan})
    torch = processes.ask("torch", "peaks", options.product, dtypes)
    processes.ask("jax", "forget").result()
    peaks = answer(torch, end)
    if isinstance(peaks, Failure):
        raise UserError(f"PyTorch does not run on the device: {peaks.error}")
    made_with = processes.made_with | {"cores": os.cpu_count(), "python": platform.python_version()}
    path = options.results / f"{file_stem(made_with)}_{options.backbone}.json"
    rows = read_rows(path, made_with)
    print(f"{made_with}, limits {peaks}", flush=True)
    sizes, size = options.batch_sizes, options.input_size
    for columns in plan:
        case: Row = dict(zip(COLUMNS, columns, strict=True)) | {"backbone": options.backbone}
        case |= {"sides": list(case["sides"]), "input_size": size, "stored_size": size * 8 // 7}
        same = [row for row in rows if row.items() >= case.items()]
        if any(row["finished"] for row in same):
            continue
        if time.monotonic() > end - STARTING:
            break
        largest = max((row["batch"] for row in rows if not row["smaller"]), default=sizes[0])
        for batch in sizes[sizes.index(largest) + case["smaller"] :] or sizes[-1:]:
            row = measure(processes, case | {"batch": batch}, peaks, end, options.traces)
            print(line(row), flush=True)
            processes.forget()
            processes.end("jax_deterministic")  # gives its memory back
            if row["fits"]:
                break
        rows = [row for row in rows if row not in same] + [row]
        write_rows(path, made_with, rows)


def command(description: str, plan: Plan, batch_sizes: Sequence[int], product: int) -> None:
    """Run a command that measures the cases of a plan, as many as the time allows.

    Args:
        description: what the command is for, in a line.
        plan: the cases, each with the values of `COLUMNS`, the most telling first.
        batch_sizes: batch sizes to try, the largest first.
        product: side of the matrices whose product tells the device's limit.
    """
    parser = OneLineParser(about=description)
    parser.add_argument("--backbone", choices=BACKBONES, required=True)
    parser.add_argument("--minutes", type=float, default=9.0, help="for all, compilation too")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--traces", type=Path, help="folder for traces and compiled programs")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=batch_sizes)
    parser.add_argument("--input_size", type=int, default=224)
    parser.add_argument("--product", type=int, default=product, help="side of multiplied matrices")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as cache:
        processes = Processes(cache)
        try:
            measure_all(plan, options, processes, end)
        except TimeoutError:
            print("time is up", flush=True)
        finally:
            processes.end()
