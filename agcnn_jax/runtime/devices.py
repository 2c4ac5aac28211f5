"""SPMD data parallelism: functions mapped over devices, and arrays spread over them.

A function written for one device's share of a batch, which averages over the axis `batch`, is
mapped over all devices and jitted. `jax.pmap` has been the same since JAX 0.8, which recommends
`jax.jit(jax.shard_map(...))` for new code. Every process of a run executes the same program.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from agcnn_jax.runtime.errors import UserError

BATCH_AXIS = "batch"
"""Name of the mesh axis over which statistics and gradients are averaged."""

REPLICATED = PartitionSpec()
SHARDED = PartitionSpec(BATCH_AXIS)


def device_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Return a one-axis mesh over the given devices, by default all.

    A process's devices are adjacent in the mesh, and so are its rows of a batch.
    """
    found = devices if devices is not None else jax.devices()
    ordered = sorted(found, key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(ordered), (BATCH_AXIS,))


def local_mesh(mesh: Mesh) -> Mesh:
    """Return the part of a mesh that belongs to this process."""
    return mesh if jax.process_count() == 1 else device_mesh(mesh.local_devices)


def this_process_only() -> ocp.options.MultiprocessingOptions:
    """Return the options with which orbax reads in this process without waiting for the others."""
    process = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=process,
        active_processes={process},
        barrier_sync_key_prefix=f"process{process}",
    )


def on_one_device(metadata: Any) -> Any:
    """Describe a checkpoint's arrays, leaves with `shape` and `dtype`, as arrays on one device.

    Without this, orbax looks for the devices that the arrays were saved from.
    """
    here = SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), metadata
    )


def check_batch_size(
    mesh: Mesh, batch_size: int, option: str, parts: int = 1, remedy: str | None = None
) -> None:
    """Raise `UserError` unless the devices can share a global batch equally.

    Args:
        mesh: the devices.
        batch_size: number of images.
        option: what sets it, for the message.
        parts: number of micro-batches that each device splits its share into.
        remedy: what to use instead, for the message; by default a multiple of the shares.
    """
    shares = mesh.size * parts
    if batch_size < 1 or batch_size % shares:
        split = f"{mesh.size} device" + ("s" if mesh.size > 1 else "")
        split += f" in {parts} micro-batches each" if parts > 1 else ""
        raise UserError(
            f"{option} is {batch_size}, which {split} cannot share evenly; "
            f"use {remedy or f'a multiple of {shares}'}"
        )


def data_parallel(
    function: Callable[..., Any],
    mesh: Mesh,
    in_specs: Sequence[PartitionSpec],
    out_specs: Any,
    donate: Sequence[int] = (),
) -> Any:
    """Map a per-device function over the mesh and jit it.

    Args:
        function: takes one device's share of every sharded argument.
        mesh: the devices.
        in_specs: `REPLICATED` or `SHARDED` for each argument.
        out_specs: the same for the outputs, as a prefix of their tree.
        donate: positions of the arguments whose buffers the outputs may reuse.
    """
    mapped = jax.shard_map(function, mesh=mesh, in_specs=tuple(in_specs), out_specs=out_specs)
    # Profiles and compilation logs show the function's own name.
    named = functools.wraps(getattr(function, "func", function))(lambda *args: mapped(*args))
    return jax.jit(named, donate_argnums=tuple(donate))


def replicate(mesh: Mesh, tree: Any) -> Any:
    """Put a tree of arrays, the same in every process, on every device."""
    # `jax.device_put` would compare every array between the processes first.
    local = tree if jax.process_count() == 1 else jax.tree.map(np.asarray, tree)
    return jax.make_array_from_process_local_data(NamedSharding(mesh, REPLICATED), local)


def shard_batch(mesh: Mesh, batch: Any) -> Any:
    """Spread this process's rows, a tree of host arrays `[b, ...]`, over its devices."""
    return jax.make_array_from_process_local_data(NamedSharding(mesh, SHARDED), batch)


def on_local_mesh(mesh: Mesh, tree: Any) -> Any:
    """View replicated arrays as arrays on this process's devices only, without a copy.

    All processes must start programs over all devices in the same order, which a thread that works
    ahead cannot guarantee. A program over the local mesh may start at any time.
    """
    sharding = NamedSharding(local_mesh(mesh), REPLICATED)
    return jax.tree.map(lambda array: _reassemble(array, array.shape, sharding), tree)


def join_local_shards(mesh: Mesh, tree: Any) -> Any:
    """Join the arrays on each process's local mesh to arrays over all devices, without a copy."""
    sharding = NamedSharding(mesh, SHARDED)

    def join(array: jax.Array) -> jax.Array:
        return _reassemble(
            array, (array.shape[0] * jax.process_count(), *array.shape[1:]), sharding
        )

    return jax.tree.map(join, tree)


def _reassemble(array: jax.Array, shape: tuple[int, ...], sharding: NamedSharding) -> jax.Array:
    if jax.process_count() == 1:
        return array
    parts = [shard.data for shard in array.addressable_shards]
    return jax.make_array_from_single_device_arrays(shape, sharding, parts)


def local_rows(array: jax.Array) -> np.ndarray:
    """Fetch this process's rows `[b, ...]` of an array that is spread over all devices."""
    if array.is_fully_addressable:
        return np.asarray(jax.device_get(array))
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate(jax.device_get([shard.data for shard in shards]))


def gather_batches(batches: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Gather this process's rows `[b, ...]` of each global batch with those of all processes.

    Returns:
        All rows in the order of the batches, `[len(batches) * B, ...]`, the same in every process.
    """
    stacked = {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
    # From [process, batch, row, ...]: a global batch holds the rows process by process.
    return {
        name: np.moveaxis(np.asarray(rows), 0, 1).reshape(-1, *rows.shape[3:])
        for name, rows in multihost_utils.process_allgather(stacked).items()
    }
