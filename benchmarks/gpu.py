"""Speed on one GPU beside PyTorch: training steps, whole prediction, and the card's limits.

    python benchmarks/gpu.py --backbone resnet50 --minutes 9 [--results FOLDER] [--traces FOLDER]

Takes the largest batch of --batch_sizes that fits both sides, and the next smaller one. Each side
has a process with its share of the card's memory; the sides compile at the same time, and then run
in turn. After every case it writes medians, slowest and fastest round, ratios, shares of the card's
limits and the ten longest operations to FOLDER/gpu_<card>_<backbone>.json; the next run goes on
with the cases that this file lacks. It needs jax, flax, optax, orbax, OpenCV, scipy and torch, and
takes torchvision's networks if it is there.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # the package need not be installed

from beside import JOINT, command

from agcnn_jax.runtime.errors import run

BATCH_SIZES = (1024, 512, 256, 128, 64, 32)
PYTORCH = ("torch_compile", "torch_eager")
ALL = ("jax", *PYTORCH)
CROPPERS = ("jax", "jax_host_cropper", *PYTORCH)
DETERMINISTIC = ("jax", "jax_deterministic")
PLAN = (
    ("train", "global", "bfloat16", 0, ALL),
    ("predict", JOINT, "bfloat16", 0, ALL),
    ("train", "global", "bfloat16", 1, ALL),
    ("train", "global", "float32", 1, ALL),
    ("train", "local", "bfloat16", 0, CROPPERS),
    ("train", "fusion", "bfloat16", 0, CROPPERS),
    ("train", "global", "bfloat16", 0, DETERMINISTIC),
    ("train", JOINT, "bfloat16", 1, ALL),
    ("predict", JOINT, "float32", 1, ALL),
)


def main() -> None:
    """Measure what the time allows."""
    command(__doc__.split("\n")[0], PLAN, BATCH_SIZES, product=8192)


if __name__ == "__main__":
    run(main)
