"""What a card can do, and what a case asks of it, for the shares in `cpu.py` and `gpu.py`."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from side_torch import DEVICE, Branch, tidy, wait
from torch.utils.flop_counter import FlopCounterMode


def flops(case: dict[str, Any]) -> float:
    """Count a case's operations an image, two for each multiplication with its addition.

    Those of the backbones, which cropping alone has none of.
    """
    if case["part"] == "crop":
        return 0.0
    trained = case["stage"].split("+") if case["part"] == "train" else []
    backbones = 1 if case["stage"] == "global" else 2
    with torch.device("meta"):
        branch = Branch(case["backbone"])
        images = torch.zeros(2, 3, case["input_size"], case["input_size"])
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        branch.eval()(images)
    with FlopCounterMode(display=False) as both:
        branch.train()(images)[-1].sum().backward()
    learning = len({"global", "local"} & set(trained))
    total = learning * both.get_total_flops()
    total += (backbones - learning) * forward.get_total_flops()
    return total / len(images)


def peaks(size: int, dtypes: Sequence[str]) -> dict[str, float]:
    """Measure the device: products of matrices of side `size` in TFLOP/s, a copy in GB/s."""
    found = {}
    for name in dtypes:
        dtype = getattr(torch, name)
        left, right = (torch.randn(size, size, device=DEVICE).to(dtype) for _ in range(2))
        seconds = fastest(functools.partial(torch.matmul, left, right))
        found[f"{name}_tflops"] = float(f"{2 * size**3 / seconds / 1e12:.5g}")
    source = torch.randn(16 * size, size, device=DEVICE)
    target = torch.empty_like(source)
    seconds = fastest(lambda: target.copy_(source))
    found["copy_gb_per_second"] = float(f"{2 * source.nbytes / seconds / 1e9:.5g}")
    tidy()
    return found


def fastest(work: Callable[[], Any], rounds: int = 5, times: int = 10) -> float:
    """Return the seconds that work takes in the fastest of some rounds."""
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        for _ in range(times):
            work()
        wait()
        seconds.append((time.perf_counter() - started) / times)
    return min(seconds)
