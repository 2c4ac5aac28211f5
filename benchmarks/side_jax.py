"""This project's side of `cpu.py` and `gpu.py`: steps on one device, timed, and a trace of one.

It needs jax, flax, optax, orbax and OpenCV, and no package that reads data or configs.
"""

from __future__ import annotations

import collections
import functools
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from agcnn_jax.attention.attend import attend
from agcnn_jax.attention.crop import boxes_host, resample_host
from agcnn_jax.config.strategies import Stage
from agcnn_jax.data.augment import Augmentation
from agcnn_jax.models.agcnn import AGCNN, BRANCHES, init_variables, select_branches
from agcnn_jax.models.registry import make_backbone
from agcnn_jax.run.recipe import Recipe
from agcnn_jax.runtime.devices import (
    BATCH_AXIS,
    REPLICATED,
    SHARDED,
    data_parallel,
    device_mesh,
    replicate,
    shard_batch,
)
from agcnn_jax.training.host_crop import make_host_cropper
from agcnn_jax.training.predict_step import make_predict_step
from agcnn_jax.training.schedule import sgd
from agcnn_jax.training.steps import init_state, train_step

LABELS = 15
CROPPED_CHANNELS = 1024
TAU = 0.7
Run = Callable[[int], None]  # does so many steps, and waits for the last
_runs: dict[str, Run] = {}
_programs: dict[str, Any] = {}


def start(memory_share: float) -> dict[str, Any]:
    """Describe the device, and take a share of its memory."""
    os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] = str(memory_share)  # read with the first device
    return {"device": jax.devices()[0].device_kind, "jax": jax.__version__}


def prepare(side: str, case: dict[str, Any]) -> dict[str, Any]:
    """Compile a case and run it once; return the compiler's seconds, bytes and memory plan."""
    recipe = make_recipe(case)
    mesh = device_mesh(jax.devices()[:1])
    variables = replicate(mesh, random_variables(recipe))
    rng = np.random.default_rng(0)
    stored = {
        "image": rng.integers(0, 256, (case["batch"], *[case["stored_size"]] * 2), np.uint8),
        "record": np.arange(case["batch"], dtype=np.int32),
        "labels": rng.integers(0, 2, (case["batch"], LABELS), np.uint8),
    }
    started = time.monotonic()
    if case["part"] == "crop":
        step, work = prepare_cropping(case, mesh, side == "jax_host_cropper")
    elif case["part"] == "predict":
        step, work = prepare_prediction(recipe, case["stage"], mesh, variables, stored)
    else:
        host = side == "jax_host_cropper"
        step, work = prepare_training(recipe, case["stage"], mesh, variables, stored, host)
    seconds = time.monotonic() - started
    work(1)
    _runs[side], _programs[side] = work, step
    return {"compile_seconds": round(seconds, 1), **planned(step)}


def planned(step: Any) -> dict[str, Any]:
    """Read a compiled program's bytes, read and written, and memory; nothing from some backends."""
    try:
        plan = step.memory_analysis()
        needed = plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
        return {
            "memory_gib": round((needed + plan.temp_size_in_bytes) / 2**30, 2),
            "bytes": step.cost_analysis()["bytes accessed"],
        }
    except (AttributeError, KeyError, NotImplementedError, TypeError, jax.errors.JaxRuntimeError):
        return {}


def make_recipe(case: dict[str, Any]) -> Recipe:
    """Describe the model and the augmentation as the configs do by default."""
    backbone = make_backbone(case["backbone"], BATCH_AXIS, jnp.dtype(case["dtype"]))
    return Recipe(AGCNN(backbone, LABELS), 0, case["input_size"], Augmentation())


def random_variables(recipe: Recipe) -> Any:
    """Draw weights on the host, since drawing them on a device takes a minute to compile."""
    rng = np.random.default_rng(0)

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        name = path[-1].key
        if name == "kernel":
            spread = (2 / np.prod(leaf.shape[:-1])) ** 0.5
            return (spread * rng.standard_normal(leaf.shape)).astype(np.float32)
        return np.full(leaf.shape, float(name in ("scale", "var")), np.float32)

    make = functools.partial(init_variables, recipe.model, input_size=recipe.input_size)
    return jax.tree.map_with_path(draw, jax.eval_shape(make, jax.random.key(0)))


def prepare_prediction(
    recipe: Recipe, branches: str, mesh: Mesh, variables: Any, stored: Any
) -> tuple[Any, Run]:
    """Compile the prediction of the given branches."""
    images = shard_batch(mesh, stored["image"])
    step: Any = make_predict_step(recipe, mesh, tuple(branches.split("+")))
    if hasattr(step, "lower"):  # one program, not two with the host between
        step = step.lower(variables, images).compile()
    else:
        jax.block_until_ready(step(variables, images))

    def work(steps: int) -> None:
        for _ in range(steps):
            outputs = step(variables, images)
        jax.block_until_ready(outputs)

    return step, work


def prepare_cropping(case: dict[str, Any], mesh: Mesh, host: bool) -> tuple[Any, Run]:
    """Compile the way from feature maps to local images, on the device or by way of the host."""
    size, batch, cells = case["input_size"], case["batch"], -(-case["input_size"] // 32)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, size, size)).astype(np.float32)
    features = rng.random((batch, cells, cells, CROPPED_CHANNELS), np.float32)

    def on_device(images: jax.Array, features: jax.Array) -> jax.Array:
        return attend(images, features, "max", TAU).local_images

    def masks(images: jax.Array, features: jax.Array) -> jax.Array:
        return jnp.packbits(attend(images, features, "max", TAU).mask, axis=-1)

    mapped = data_parallel(masks if host else on_device, mesh, (SHARDED, SHARDED), SHARDED)
    inputs = shard_batch(mesh, (images, features))
    step = mapped.lower(*inputs).compile()

    def work(steps: int) -> None:
        for _ in range(steps):
            outputs = step(*inputs)
            if host:
                host_masks = np.unpackbits(jax.device_get(outputs), axis=-1, count=size)
                outputs = resample_host(images, boxes_host(host_masks))
        jax.block_until_ready(outputs)

    return step, work


def prepare_training(
    recipe: Recipe, branches: str, mesh: Mesh, variables: Any, stored: Any, host: bool
) -> tuple[Any, Run]:
    """Compile a training step; with the host cropper, that works one batch ahead of it."""
    stage = Stage(1, tuple(branches.split("+")))
    optimizer, _ = sgd(0.01, 10**6, 10.0, momentum=0.9, weight_decay=1e-4)
    trained = select_branches(variables, stage.branches)
    frozen = select_branches(variables, tuple(set(BRANCHES) - set(stage.branches)))
    state = jax.jit(functools.partial(init_state, optimizer=optimizer))(trained)
    batch = shard_batch(mesh, stored)
    crop_on_host = make_host_cropper(recipe, frozen, mesh) if host else None

    def crop() -> Any:
        return crop_on_host({**stored, "step": 0}) if crop_on_host else batch

    mapped = data_parallel(
        functools.partial(train_step, recipe=recipe, stage=stage, optimizer=optimizer),
        mesh,
        in_specs=(REPLICATED, REPLICATED, SHARDED),
        out_specs=REPLICATED,
        donate=(0,),
    )
    step = mapped.lower(state, frozen, crop()).compile()
    executor = ThreadPoolExecutor(1)

    def work(steps: int) -> None:
        nonlocal state
        coming = executor.submit(crop)
        for number in range(steps):
            ready = coming.result()
            if number + 1 < steps:
                coming = executor.submit(crop)
            state, _ = step(state, frozen, ready)
        jax.block_until_ready(state)

    return step, work


def run(side: str, steps: int) -> float:
    """Run one step, then time `steps` more; return seconds a step."""
    _runs[side](1)
    started = time.perf_counter()
    _runs[side](steps)
    return (time.perf_counter() - started) / steps


def longest_operations(side: str, keep: str | None, steps: int = 3) -> list[dict[str, Any]]:
    """Trace steps; return the ten operations that take longest, in milliseconds a step.

    The trace and the compiled program go to files that start with the path `keep`.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            _runs[side](steps)
        trace = next(Path(folder).rglob("*.xplane.pb")).read_bytes()
    if keep:
        Path(keep).parent.mkdir(parents=True, exist_ok=True)
        Path(f"{keep}.xplane.pb").write_bytes(trace)
        Path(f"{keep}.hlo.txt").write_text(_programs[side].as_text())
    planes = list(jax.profiler.ProfileData.from_serialized_xspace(trace).planes)
    on_devices = [plane for plane in planes if plane.name.startswith("/device:GPU")]
    total: collections.Counter[str] = collections.Counter()
    kernels: dict[str, str] = {}
    for plane in on_devices or planes:
        lines = list(plane.lines)
        streams = [line for line in lines if line.name.startswith("Stream")]
        for event in (event for line in streams or lines for event in line.events):
            name = str(dict(event.stats).get("hlo_op", event.name if on_devices else ""))
            if name:
                total[name] += event.duration_ns
                kernels.setdefault(name, event.name[:120])
    return [
        {
            "operation": name,
            "kernel": kernels[name],
            "ms": round(nanoseconds / 1e6 / steps, 3),
            "share": round(nanoseconds / total.total(), 3),
        }
        for name, nanoseconds in total.most_common(10)
    ]


def forget() -> None:
    """Drop the prepared cases, whose arrays occupy the device."""
    _runs.clear()
    _programs.clear()
