"""Where devices are known: per-device functions mapped over the `batch` axis.

SPMD data parallelism. A function written for one device's share of the batch, with its averages
over the axis named `batch`, is mapped over all devices and jitted. This is what `jax.pmap` is
today: JAX has implemented pmap as jit of shard_map since 0.8 and advises writing new code as
`jax.jit(jax.shard_map(...))`. Nothing outside this module knows how many devices there are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from agcnn_jax.errors import UserError
from agcnn_jax.models.layers import BATCH_AXIS

REPLICATED = PartitionSpec()
SHARDED = PartitionSpec(BATCH_AXIS)


def device_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A one-axis mesh over the given devices, by default all of them."""
    return Mesh(np.array(devices if devices is not None else jax.devices()), (BATCH_AXIS,))


def check_batch_size(mesh: Mesh, batch_size: int, option: str) -> None:
    """Raise `UserError` unless `batch_size` splits evenly over the mesh's devices."""
    if batch_size < 1 or batch_size % mesh.size:
        raise UserError(
            f"{option} is {batch_size}, which {mesh.size} devices cannot share evenly; "
            f"use a multiple of {mesh.size}"
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
        out_specs: likewise for the outputs, as a prefix of their tree.
        donate: positions of the arguments whose buffers the outputs may take over.
    """
    mapped = jax.shard_map(function, mesh=mesh, in_specs=tuple(in_specs), out_specs=out_specs)
    # Profiles and compilation logs show the function's own name.
    named = functools.wraps(getattr(function, "func", function))(lambda *args: mapped(*args))
    return jax.jit(named, donate_argnums=tuple(donate))


def replicate(mesh: Mesh, tree: Any) -> Any:
    """Put a tree of arrays on every device."""
    return jax.device_put(tree, NamedSharding(mesh, REPLICATED))


def shard_batch(mesh: Mesh, batch: Any) -> Any:
    """Spread a tree of host arrays `[B, ...]` over the devices, process-local data in."""
    sharding = NamedSharding(mesh, SHARDED)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)
