"""How fast devices add up what each has, and how far each process is from process 0."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh

from agcnn_jax.check.part import Part, in_words, named, slow_ones
from agcnn_jax.runtime import cluster
from agcnn_jax.runtime.devices import BATCH_AXIS, REPLICATED, data_parallel, replicate
from agcnn_jax.runtime.processes import exchange, process_share

ROUNDS = 10
SMALL, LARGE = 4, 2**20
"""Bytes that go to process 0 and back."""

LEAST = 0.02
"""Seconds of a slow exchange at least."""


def check_network(mesh: Mesh, gradients: int, hosts: Sequence[str]) -> Part:
    """Measure the network; all processes call this. `gradients` counts a step's float32."""
    seconds = {count: all_reduce_seconds(mesh, count) for count in (1, gradients)}
    trips = [[trip_seconds(turn, size) for size in (SMALL, LARGE)] for turn in range(len(hosts))]
    return judge_network(seconds[1], seconds[gradients], 4 * gradients, trips, hosts)


def all_reduce_seconds(mesh: Mesh, count: int) -> float:
    """Return the least seconds in which all devices sum `count` float32 of each."""

    def summed(values: jax.Array) -> jax.Array:
        return lax.psum(lax.pcast(values, BATCH_AXIS, to="varying"), BATCH_AXIS)

    program = data_parallel(summed, mesh, (REPLICATED,), REPLICATED)
    ones = replicate(mesh, jnp.ones(count, jnp.float32))
    jax.block_until_ready(program(ones))
    return min(_seconds(lambda: jax.block_until_ready(program(ones))) for _ in range(ROUNDS))


def trip_seconds(turn: int, size: int) -> float:
    """Send `size` bytes from the process whose turn it is to process 0 and back; all call this.

    Returns the least seconds, the same in all processes. One after the other, so that none waits
    for the others' exchanges.
    """
    mine, several = process_share()
    if several == 1:
        return 0.0
    trip = functools.partial(cluster.round_trip, os.urandom(size))
    least = min(trip() for _ in range(ROUNDS)) if mine == turn else 0.0
    return float(exchange(least)[turn])


def _seconds(function: Any) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def judge_network(
    latency: float,
    reduced: float,
    size: int,
    trips: Sequence[Sequence[float]],
    hosts: Sequence[str],
) -> Part:
    """Judge what was measured.

    Args:
        latency: seconds to sum 4 bytes over all devices.
        reduced: seconds to sum `size` bytes.
        size: bytes of a stage's gradients, of the stage that has most.
        trips: of each process, the seconds to process 0 and back of `SMALL` and `LARGE` bytes.
        hosts: the name of each process's host.
    """
    figures: dict[str, Any] = {
        "all_reduce": {"bytes": 4, "seconds": latency},
        "all_reduce_of_gradients": {
            "bytes": size,
            "seconds": reduced,
            "gigabytes_per_second": size / reduced / 1e9,
        },
    }
    lines = [
        f"all devices sum 4 bytes in {1e3 * latency:.3f} ms, gradients of {in_words(size)} in "
        f"{1e3 * reduced:.2f} ms ({size / reduced / 1e9:.2f} GB/s)"
    ]
    failures = []
    if len(trips) > 1:
        # Process 0 reaches itself faster than any other does.
        others = [large for _, large in trips[1:]]
        slowest = 1 + others.index(max(others))
        figures["to_process_0"] = [
            {"process": i, "seconds_of_4_bytes": small, "seconds_of_a_megabyte": large}
            for i, (small, large) in enumerate(trips)
        ]
        figures["slowest_process"] = slowest
        small, large = trips[slowest]
        lines.append(
            f"to process 0 and back, 4 bytes and 1 MiB: slowest {named(slowest, hosts)}, "
            f"{1e3 * small:.2f} and {1e3 * large:.2f} ms"
        )
        for place in slow_ones(others, LEAST):
            failures.append(
                f"{named(1 + place, hosts)} is slow: 1 MiB to process 0 and back takes "
                f"{others[place]:.3f} s, several times as long as from the others; look at its "
                f"network, or leave that host out"
            )
    return Part("network", figures, tuple(lines), tuple(failures))
