"""Where devices and hosts are known: functions mapped over the `batch` axis, arrays spread over it.

SPMD data parallelism. A function written for one device's share of the batch, with its averages
over the axis named `batch`, is mapped over all devices and jitted. This is what `jax.pmap` is
today: JAX has implemented pmap as jit of shard_map since 0.8 and advises writing new code as
`jax.jit(jax.shard_map(...))`. Every process of a run executes the same program; nothing outside
this module and `cluster` knows how many devices and processes there are.
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
    """A one-axis mesh over the given devices, by default all of them.

    The devices of a process lie side by side, so that its rows of a batch do too.
    """
    found = devices if devices is not None else jax.devices()
    ordered = sorted(found, key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(ordered), (BATCH_AXIS,))


def local_mesh(mesh: Mesh) -> Mesh:
    """The part of a mesh that belongs to this process."""
    return mesh if jax.process_count() == 1 else device_mesh(mesh.local_devices)


def this_process_only() -> ocp.options.MultiprocessingOptions:
    """What orbax must be told to read in this process without waiting for the others.

    Else a process that finds nothing to read would leave the others waiting in the middle.
    """
    process = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=process,
        active_processes={process},
        barrier_sync_key_prefix=f"process{process}",
    )


def on_one_device(metadata: Any) -> Any:
    """Describe what a checkpoint holds as arrays on this process's first device.

    Without a place for its arrays, orbax looks for the devices that they were saved from.

    Args:
        metadata: tree of leaves with `shape` and `dtype`.
    """
    here = SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), metadata
    )


def check_batch_size(
    mesh: Mesh, batch_size: int, option: str, parts: int = 1, remedy: str | None = None
) -> None:
    """Check that a global batch can be shared.

    Args:
        mesh: the devices.
        batch_size: number of images.
        option: what set it, for the message.
        parts: micro-batches that every device's share is split in.
        remedy: what to use instead, for the message; by default a multiple of the shares.

    Raises:
        UserError: unless the devices' shares, and the parts of them, are equal.
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
        donate: positions of the arguments whose buffers the outputs may take over.
    """
    mapped = jax.shard_map(function, mesh=mesh, in_specs=tuple(in_specs), out_specs=out_specs)
    # Profiles and compilation logs show the function's own name.
    named = functools.wraps(getattr(function, "func", function))(lambda *args: mapped(*args))
    return jax.jit(named, donate_argnums=tuple(donate))


def replicate(mesh: Mesh, tree: Any) -> Any:
    """Put a tree of arrays, the same in every process, on every device."""
    sharding = NamedSharding(mesh, REPLICATED)
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    # `device_put` would compare every array between the processes first.
    def put(leaf: Any) -> jax.Array:
        array = np.asarray(leaf)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(put, tree)


def shard_batch(mesh: Mesh, batch: Any) -> Any:
    """Spread a tree of host arrays over the devices: this process's rows `[b, ...]` in."""
    sharding = NamedSharding(mesh, SHARDED)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def on_local_mesh(mesh: Mesh, tree: Any) -> Any:
    """See replicated arrays as arrays of this process's devices alone, without a copy.

    A program over the local mesh may run at any time. One over all devices has to be started in
    the same order by every process, which a thread that works ahead cannot promise.
    """
    if jax.process_count() == 1:
        return tree
    sharding = NamedSharding(local_mesh(mesh), REPLICATED)

    def view(array: jax.Array) -> jax.Array:
        parts = [shard.data for shard in array.addressable_shards]
        return jax.make_array_from_single_device_arrays(array.shape, sharding, parts)

    return jax.tree.map(view, tree)


def join_local_shards(mesh: Mesh, tree: Any) -> Any:
    """Make one array over all devices of what every process has on its local mesh, no copy."""
    if jax.process_count() == 1:
        return tree
    sharding = NamedSharding(mesh, SHARDED)

    def join(array: jax.Array) -> jax.Array:
        shape = (array.shape[0] * jax.process_count(), *array.shape[1:])
        parts = [shard.data for shard in array.addressable_shards]
        return jax.make_array_from_single_device_arrays(shape, sharding, parts)

    return jax.tree.map(join, tree)


def local_rows(array: jax.Array) -> np.ndarray:
    """Fetch this process's rows `[b, ...]` of an array spread over all devices."""
    if array.is_fully_addressable:
        return np.asarray(jax.device_get(array))
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate(jax.device_get([shard.data for shard in shards]))


def gather_batches(batches: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Bring the rows of all processes together, in one exchange.

    Args:
        batches: of each global batch, this process's rows `[b, ...]` by name.

    Returns:
        All rows in the order of the batches, `[len(batches) * B, ...]`, the same in every process.
    """
    stacked = {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
    if jax.process_count() > 1:
        # [process, batch, row, ...], of which a global batch takes the rows process by process.
        stacked = {
            name: np.moveaxis(np.asarray(rows), 0, 1)
            for name, rows in multihost_utils.process_allgather(stacked).items()
        }
        return {name: rows.reshape(-1, *rows.shape[3:]) for name, rows in stacked.items()}
    return {name: rows.reshape(-1, *rows.shape[2:]) for name, rows in stacked.items()}
