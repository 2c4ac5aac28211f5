"""SPMD data parallelism: functions mapped over devices, and arrays spread over them.

A function written for one device's share of a batch, which averages over the axis `batch`, is
mapped over all devices and jitted. `jax.pmap` has been the same since JAX 0.8, which recommends
`jax.jit(jax.shard_map(...))` for new code.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from agcnn_jax.runtime.errors import UserError, surroundings

BATCH_AXIS = "batch"
"""Name of the mesh axis over which statistics and gradients are averaged."""

REPLICATED = PartitionSpec()
SHARDED = PartitionSpec(BATCH_AXIS)


def check_devices() -> None:
    """Raise `UserError` unless JAX finds the devices that `JAX_PLATFORMS` asks for, or any."""
    try:
        jax.devices()
    except (AssertionError, RuntimeError) as error:
        if message := surroundings(error):
            raise UserError(message) from None
        raise


def device_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Return a one-axis mesh over the given devices, by default all.

    A process's devices are adjacent in the mesh, and so are its rows of a batch.
    """
    ordered = sorted(devices or jax.devices(), key=lambda one: (one.process_index, one.id))
    return Mesh(np.array(ordered), (BATCH_AXIS,))


def this_process_only() -> ocp.options.MultiprocessingOptions:
    """Return the options with which orbax reads in this process without waiting for the others."""
    process = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=process,
        active_processes={process},
        barrier_sync_key_prefix=f"process{process}",
    )


def as_numpy(metadata: Any) -> Any:
    """Make orbax load arrays to host memory, whatever devices they were saved from."""
    return jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), metadata)


def check_batch_size(
    mesh: Mesh, batch_size: int, option: str, parts: int = 1, remedy: str | None = None
) -> None:
    """Raise `UserError` unless the devices can share a global batch equally.

    Each device splits its share into `parts` micro-batches. The message says that `option` set the
    size, and the remedy, by default a multiple of the shares.
    """
    shares = mesh.size * parts
    if batch_size % shares:
        split = f"{mesh.size} device" + ("s" if mesh.size > 1 else "")
        split += f" in {parts} micro-batches each" if parts > 1 else ""
        raise UserError(
            f"{option} is {batch_size}, which {split} cannot share evenly; "
            f"use {remedy or f'a multiple of {shares}'}"
        )


def data_parallel(
    function: Callable[..., Any],
    mesh: Mesh,
    in_specs: tuple[PartitionSpec, ...],
    out_specs: Any,
    donate: tuple[int, ...] = (),
) -> Any:
    """Map a function of one device's share of a batch over the mesh and jit it.

    Each argument, and each output or tree of them, is `REPLICATED` or `SHARDED`. The outputs may
    reuse the buffers of the arguments at the positions in `donate`.
    """
    mapped = jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs)
    # Profiles and compilation logs show the function's own name.
    named = functools.wraps(getattr(function, "func", function))(lambda *args: mapped(*args))
    options = cpu_options() if mesh.devices.flat[0].platform == "cpu" else None
    return jax.jit(named, donate_argnums=donate, compiler_options=options)


@functools.cache
def cpu_options() -> dict[str, Any] | None:
    """Return XLA's compile options for x86 CPUs, or None where jax does not know them.

    By default (jax 0.10 to 0.12) the library YNN computes convolutions, products and sums. Eigen's
    convolutions take a third to nine tenths of its time; its sums take several times as long.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return None
    options = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}
    try:
        with jax.default_device(jax.devices("cpu")[0]):
            jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return None
    return options


def replicate(mesh: Mesh, tree: Any) -> Any:
    """Put a tree of arrays, the same in every process, on every device."""
    # `jax.device_put` would compare every array between the processes first.
    local = tree if jax.process_count() == 1 else jax.tree.map(np.asarray, tree)
    return jax.make_array_from_process_local_data(NamedSharding(mesh, REPLICATED), local)


def shard_batch(mesh: Mesh, batch: Any) -> Any:
    """Join the rows of all processes, trees of arrays `[b, ...]`, to arrays over all devices.

    Arrays on the host are copied to the devices; arrays spread over `mesh.local_mesh` are not.
    """
    return multihost_utils.host_local_array_to_global_array(batch, mesh, SHARDED)


def local_rows(mesh: Mesh, tree: Any) -> Any:
    """Fetch this process's rows `[b, ...]` of arrays that are spread over all devices."""
    return jax.device_get(multihost_utils.global_array_to_host_local_array(tree, mesh, SHARDED))


def local_view(mesh: Mesh, tree: Any) -> Any:
    """View replicated arrays as arrays on this process's devices only, without a copy.

    All processes must start programs over all devices in the same order, which a thread that works
    ahead cannot guarantee. A program over `mesh.local_mesh` may start at any time.
    """
    return multihost_utils.global_array_to_host_local_array(tree, mesh, REPLICATED)


def gather_batches(batches: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Gather the `local_rows` of each batch from all processes, to `[len(batches) * B, ...]`."""
    stacked = {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
    # From [process, batch, row, ...]: a global batch holds the rows process by process.
    return {
        name: np.moveaxis(np.asarray(rows), 0, 1).reshape(-1, *rows.shape[3:])
        for name, rows in multihost_utils.process_allgather(stacked).items()
    }
