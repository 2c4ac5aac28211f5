"""Speed of the ONNX model on CPUs, beside XLA and PyTorch, and what bfloat16 changes.

    python benchmarks/portable.py [--films FOLDER] [--workdir RUN] [--out FILE]

Each side predicts the same images with a whole AG-CNN of 224 x 224, in turn with the others in one
process, and the process has as many cores as its sides have threads. The ratios are the medians of
those of a turn. PyTorch runs a network of the same structure, gets normalised images, and finds
regions one image after another, as its ports do; stored images go into the others. All weights are
random, with statistics of BatchNorm that fit the films. The second table times the search for
regions alone. The third compares OpenVINO's bfloat16 with float32 on the films of a folder
(generated ones without --films), and --workdir adds a trained run to it. It needs the extras
`onnx`, `openvino` and `parity`.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package need not be installed

import jax
import numpy as np
import onnxruntime
import side_torch
import torch
from reporting import Row, describe_machine, spread
from turns import Seconds

from agcnn_jax.attention.crop import boxes_host
from agcnn_jax.config.keys import DEFAULTS, nest
from agcnn_jax.data.films import load_film, resize_film
from agcnn_jax.data.labels import LABELS
from agcnn_jax.data_prep.phantoms import generate
from agcnn_jax.inference.jax_model import JaxModel
from agcnn_jax.inference.load_jax import load_run
from agcnn_jax.inference.onnx_engines import import_openvino
from agcnn_jax.metrics.localisation import box_iou
from agcnn_jax.portable.graph import FLOAT, INT32, Graph, serialise, tensor
from agcnn_jax.portable.onnx_model import onnx_model
from agcnn_jax.portable.regions import region_boxes
from agcnn_jax.run.lineage import Lineage
from agcnn_jax.run.recipe import make_recipe
from agcnn_jax.runtime.errors import OneLineParser, run
from agcnn_jax.runtime.machine import available_cores, large_pages
from tests.portable.engines import ENGINES, compiled
from tests.portable.masks import masks_of
from tests.portable.models import settled_variables

BACKBONES = ("resnet50", "densenet121")
STORED = 256
BATCHES = (1, 16)
ROUNDS = 10
"""Of the search for regions."""
NO_BFLOAT16 = "without bfloat16, for which the processor has no instructions (AVX512_BF16 or AMX)"

Predict = Callable[[np.ndarray], Mapping[str, Any]]
Work = Callable[[], object]  # predicts a batch


def has_bfloat16() -> bool:
    """Tell whether this processor multiplies in bfloat16."""
    information = Path("/proc/cpuinfo")
    text = information.read_text() if information.exists() else ""
    return "avx512_bf16" in text or "amx_bf16" in text


def random_model(backbone: str, images: np.ndarray) -> JaxModel:
    """Draw weights; the statistics are those of the first images."""
    config = nest(DEFAULTS | {"backbone": backbone, "init": "random", "batch_norm": "local"})
    variables = settled_variables(make_recipe(config, len(LABELS)), images[:8])
    return JaxModel(backbone, config, LABELS, STORED, None, "", Lineage(), variables)


def bytes_of(model: JaxModel) -> bytes:
    """Make the model's file."""
    return onnx_model(model.variables, model.recipe, model.image_size, model.branches, model.labels)


def in_onnxruntime(content: bytes, tau: np.ndarray, threads: int) -> Predict:
    """Load a model in onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def predict(images: np.ndarray) -> Mapping[str, Any]:
        found = session.run(names, {"images": images, "tau": tau})
        return dict(zip(names, found, strict=True))

    return predict


def in_openvino(content: bytes, tau: np.ndarray, threads: int, precision: str) -> Predict:
    """Load a model in OpenVINO; `precision` is f32 or bf16."""
    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads}
    core = import_openvino().Core()
    request = core.compile_model(core.read_model(content), "CPU", settings).create_infer_request()

    def predict(images: np.ndarray) -> Mapping[str, Any]:
        return {
            name: np.array(values)
            for output, values in request.infer({"images": images, "tau": tau}).items()
            for name in output.names
        }

    return predict


def sides_of(model: JaxModel, images: np.ndarray, threads: int) -> dict[str, Work]:
    """Make the sides, each for this batch."""
    content, tau = bytes_of(model), np.array(model.recipe.tau, np.float32)
    torch.set_num_threads(threads)
    case: Row = {"backbone": model.backbone, "part": "predict", "stage": "global+local+fusion"}
    case |= {"batch": len(images), "input_size": model.recipe.input_size, "dtype": "float32"}
    side_torch.prepare("torch_eager", case)
    predicts: dict[str, Predict] = {
        "XLA": lambda images: jax.device_get(model.predict_batch(images)),
        "onnxruntime": in_onnxruntime(content, tau, threads),
        "OpenVINO": in_openvino(content, tau, threads, "f32"),
    }
    if has_bfloat16():
        predicts["OpenVINO, bfloat16"] = in_openvino(content, tau, threads, "bf16")
    works: dict[str, Work] = {
        side: functools.partial(predict, images) for side, predict in predicts.items()
    }
    return works | {"PyTorch": functools.partial(side_torch._runs["torch_eager"], 1)}


def in_turn(works: Mapping[str, Work], rounds: int, seconds: float) -> dict[str, list[Seconds]]:
    """Let the sides predict in turn, about so many seconds each; return seconds a batch."""
    turns: dict[str, list[Seconds]] = {side: [] for side in works}
    for _ in range(rounds):
        for side, work in works.items():
            began = time.perf_counter()
            work()  # another side's threads may still be awake
            batches = max(1, round(seconds / (time.perf_counter() - began)))
            clock, cores = time.perf_counter(), time.process_time()
            for _ in range(batches):
                work()
            took = time.perf_counter() - clock, time.process_time() - cores
            turns[side].append(Seconds(*(one / batches for one in took)))
    return turns


def rows_of(turns: Mapping[str, list[Seconds]], images: int) -> list[Row]:
    """Return a row for each side, in ms an image and over XLA's in the same round."""
    rows = []
    for side, seconds in turns.items():
        pairs = list(zip(seconds, turns["XLA"], strict=True))
        row: Row = {"side": side}
        for name, field in (("ms", "clock"), ("cpu_ms", "cores")):
            each = [1000 * getattr(one, field) / images for one in seconds]
            row[f"{name}_an_image"] = spread(each)
            ratio = statistics.median(getattr(a, field) / getattr(b, field) for a, b in pairs)
            row[f"{name.removesuffix('_ms')}_over_xla"] = round(ratio, 2)
        rows.append(row)
    return rows


def measure(
    backbone: str, threads: int, images: np.ndarray, rounds: int, seconds: float
) -> list[Row]:
    """Measure all batch sizes in this process, which has `threads` cores."""
    model, rows = random_model(backbone, images), []
    for batch in BATCHES:
        case: Row = {"backbone": backbone, "images": batch, "threads": threads}
        part = np.resize(images, (batch, *images.shape[1:]))
        works = sides_of(model, part, threads)
        for work in works.values():
            work()  # compiles
        rows += [case | row for row in rows_of(in_turn(works, rounds, seconds), batch)]
        side_torch.forget()
    return rows


def with_cores(count: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a process that has so many of this one's cores."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(cores)[:count])
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return pool.submit(function, *arguments).result()
    finally:
        os.sched_setaffinity(0, cores)


def search_for_regions(size: int = 224, count: int = 64) -> list[Row]:
    """Time the search for regions alone, on one thread; milliseconds a mask."""
    graph = Graph()
    graph.rename(region_boxes(graph, "values", graph.constant(0.5), size, size), "boxes")
    inputs, outputs = tensor("values", FLOAT, ["B", size, size]), tensor("boxes", INT32, ["B", 4])
    content = serialise(graph, [inputs], [outputs])
    rows = []
    for kind in ("heat maps", "noise", "serpentines", "mazes"):
        masks = masks_of(kind, count, size, size)
        row: Row = {"masks": kind, "count": count}
        works: dict[str, Callable[[], object]] = {"OpenCV": functools.partial(boxes_host, masks)}
        for engine in ENGINES:
            run_model = compiled(engine, content)
            works[engine] = functools.partial(run_model, values=masks.astype(np.float32))
        for name, work in works.items():
            work()
            began = time.process_time()
            for _ in range(ROUNDS):
                work()
            took = (time.process_time() - began) / ROUNDS / count
            row[f"{name}_cpu_ms"] = round(1000 * took, 3)
        rows.append(row)
    return rows


def difference(model: JaxModel, images: np.ndarray, threads: int) -> Row:
    """Compare bfloat16 with float32, in OpenVINO."""
    content, tau = bytes_of(model), np.array(model.recipe.tau, np.float32)
    found: dict[str, dict[str, np.ndarray]] = {}
    for precision in ("f32", "bf16"):
        predict = in_openvino(content, tau, threads, precision)
        parts = [predict(images[i : i + 16]) for i in range(0, len(images), 16)]
        found[precision] = {
            name: np.concatenate([part[name] for part in parts]) for name in parts[0]
        }
    exact, rounded = found["f32"], found["bf16"]
    row: Row = {"network": f"{model.backbone}, {'trained' if model.digest else 'random'}"}
    row["films"] = len(images)
    if "boxes" in exact:
        row["other_boxes"] = int((exact["boxes"] != rounded["boxes"]).any(axis=1).sum())
        overlap = box_iou(exact["boxes"], rounded["boxes"])
        row["intersection_over_union"] = spread(overlap.tolist(), 3)
    for branch in model.branches:
        moved = np.abs(exact[f"probability_{branch}"] - rounded[f"probability_{branch}"])
        row[f"{branch}_probability_moves_by"] = spread(moved.ravel().tolist(), 4)
    return row


def read_films(folder: Path | None, side: int) -> np.ndarray:
    """Read the films of a folder, or some generated ones, uint8 `[N, side, side]`."""
    with tempfile.TemporaryDirectory() as scratch:
        if folder is None:
            generate(Path(scratch), 16, size=side, seed=0, workers=1)
            folder = Path(scratch) / "images"
        paths = sorted(folder.glob("*.png"))
        return np.stack([resize_film(load_film(path), side) for path in paths])


def main() -> None:
    """Measure, print, and write --out."""
    parser = OneLineParser(about=__doc__.split("\n")[0])
    parser.add_argument("--films", type=Path, help="folder of PNG files (default: phantoms)")
    parser.add_argument("--workdir", help="a trained run, for what bfloat16 changes")
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=BACKBONES)
    parser.add_argument("--rounds", type=int, default=4, help="turns of each side")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    os.environ |= {"JAX_PLATFORMS": "cpu", **large_pages()}  # as the package's programs start
    images = read_films(options.films, STORED)
    cores = available_cores()
    packages = ("jax", "onnx", "onnxruntime", "openvino", "torch")
    result: Row = {
        "what": "the ONNX model on CPUs beside XLA and PyTorch, and what bfloat16 changes",
        **describe_machine(*packages),
        **({} if has_bfloat16() else {"note": NO_BFLOAT16}),
        "rows": [],
        "regions": with_cores(1, search_for_regions),
    }
    for row in result["regions"]:
        print(row, flush=True)
    for backbone in options.backbones:
        for threads in sorted({1, min(2, cores)}):
            given = (backbone, threads, images, options.rounds, options.seconds)
            rows = with_cores(threads, measure, *given)
            for row in rows:
                print(row, flush=True)
            result["rows"] += rows
    if has_bfloat16():
        result["bfloat16"] = []
        models = [random_model(backbone, images) for backbone in options.backbones]
        if options.workdir:
            models.append(load_run(options.workdir))
        for model in models:
            films = images
            if model.image_size != STORED:
                films = read_films(options.films, model.image_size)
            result["bfloat16"].append(difference(model, films, cores))
            print(result["bfloat16"][-1], flush=True)
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    run(main)
