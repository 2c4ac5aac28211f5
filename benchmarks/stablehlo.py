"""Speed of an exported StableHLO program beside the steps that it was made of.

    python benchmarks/stablehlo.py [--backbone resnet50] [--batch_sizes 1 16] [--seconds 10]
        [--out FILE]

The sides run in turn on one device, on stored images of 256 pixels, with random weights: the
program of the folder, with the package's compile options and with XLA's own; the package's
prediction step as one program, with its options; and `predict_batch`, which finds regions on the
host where the device is a CPU. Each side returns logits, boxes, heat maps and pooled features.
Prints milliseconds an image, and the ratio of the time to the step's.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # the package need not be installed

import jax
import numpy as np
from reporting import describe_machine, spread, write_rows

from agcnn_jax.config.keys import DEFAULTS, nest
from agcnn_jax.data.labels import LABELS
from agcnn_jax.inference.jax_model import JaxModel
from agcnn_jax.models.agcnn import BRANCHES, init_variables
from agcnn_jax.portable.stablehlo import stablehlo_files
from agcnn_jax.portable.stablehlo_loader import load
from agcnn_jax.run.lineage import Lineage
from agcnn_jax.run.recipe import make_recipe
from agcnn_jax.runtime.devices import (
    REPLICATED,
    SHARDED,
    cpu_options,
    data_parallel,
    device_mesh,
    replicate,
)
from agcnn_jax.training.predict_step import EXTRAS, predict_step

STORED_SIZE = 256
STEP = "step, one program"


def random_model(backbone: str) -> JaxModel:
    """Make a model of three branches."""
    config = nest(DEFAULTS | {"backbone": backbone, "init": "random"})
    recipe = make_recipe(config, len(LABELS))
    variables = init_variables(recipe.model, jax.random.key(0), recipe.input_size)
    variables = jax.tree.map(np.asarray, variables)
    return JaxModel(backbone, config, LABELS, STORED_SIZE, None, "", Lineage(), variables)


def sides(model: JaxModel, folder: Path) -> dict[str, Callable[[np.ndarray], Any]]:
    """Make the sides; `folder` takes the files of the program."""
    files = stablehlo_files(model.variables, model.recipe, STORED_SIZE, None, "default")
    for name, content in files.items():
        (folder / name).write_bytes(content)
    options = cpu_options() if jax.default_backend() == "cpu" else None
    mesh = device_mesh()
    step = functools.partial(predict_step, recipe=model.recipe, branches=BRANCHES, extras=EXTRAS)
    compiled = data_parallel(step, mesh, (REPLICATED, SHARDED), SHARDED)
    return {
        STEP: functools.partial(compiled, replicate(mesh, model.variables)),
        "file, same options": load(folder, options),
        "file, XLA's options": load(folder),
        "predict_batch": functools.partial(model.predict_batch, heat_maps=True),
    }


def measure(
    works: dict[str, Callable[[np.ndarray], Any]], count: int, seconds: float
) -> list[dict[str, Any]]:
    """Time the sides in turn on batches of `count`, for about so many seconds a side."""
    images = np.random.default_rng(0).integers(0, 256, (count, STORED_SIZE, STORED_SIZE), np.uint8)
    times: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        jax.block_until_ready(work(images))
    end = time.perf_counter() + seconds * len(works)
    while time.perf_counter() < end:
        for name, work in works.items():
            start = time.perf_counter()
            jax.block_until_ready(work(images))
            times[name].append(1e3 * (time.perf_counter() - start) / count)
    ms = {name: spread(each, 2) for name, each in times.items()}
    return [
        {
            "images": count,
            "side": name,
            "ms_an_image": one,
            "ratio": round(one["median"] / ms[STEP]["median"], 3),
        }
        for name, one in ms.items()
    ]


def main() -> None:
    """Measure, print, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--seconds", type=float, default=10.0, help="time per side and size")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        works = sides(random_model(options.backbone), Path(folder))
        for count in options.batch_sizes:
            rows += measure(works, count, options.seconds)
    for row in rows:
        print(row)
    if options.out is not None:
        facts = describe_machine("jax", "jaxlib", "numpy") | {"backbone": options.backbone}
        write_rows(options.out, facts, rows)


if __name__ == "__main__":
    main()
