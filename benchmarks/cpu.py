"""Speed on the CPU beside PyTorch: forward pass, training steps, prediction, croppers.

    python benchmarks/cpu.py --backbone densenet121 [--minutes 9] [--results FOLDER]

Both sides run in turn, each in its process, in float32. After every case it writes medians, slowest
and fastest round, ratios, and shares of what the processor's products and copies allow to
FOLDER/cpu_<instructions>_jax_<version>_<backbone>.json; the next run goes on with the cases that
this file lacks. It needs what `gpu.py` needs. A forward pass is the prediction of the global branch
alone; the whole prediction and the croppers of PyTorch find regions one image after another, as its
ports do.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # the package need not be installed

from beside import JOINT, command

from agcnn_jax.runtime.errors import run

BOTH = ("jax", "torch_eager", "torch_large_pages")
CROPPERS = ("jax", "jax_host_cropper", "torch_eager")
PLAN = (
    ("train", "global", "float32", 0, BOTH),
    ("predict", "global", "float32", 0, BOTH),
    ("predict", JOINT, "float32", 0, BOTH),
    ("crop", "local", "float32", 0, CROPPERS),
    ("train", "local", "float32", 0, CROPPERS),
    ("train", "fusion", "float32", 0, CROPPERS),
)


def main() -> None:
    """Measure what the time allows, with no GPU."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    command(__doc__.split("\n")[0], PLAN, (16,), product=4096)


if __name__ == "__main__":
    run(main)
