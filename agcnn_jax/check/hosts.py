"""Who takes part: hosts, processes and devices, what differs between them, and their clocks."""

from __future__ import annotations

import collections
import os
import platform
import socket
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import jax

from agcnn_jax.check.part import Part, named
from agcnn_jax.config.saved import describe_run
from agcnn_jax.run import lineage
from agcnn_jax.run.run import Run
from agcnn_jax.runtime import cluster, supervisor
from agcnn_jax.runtime.machine import available_cores
from agcnn_jax.runtime.processes import differences, exchange
from agcnn_jax.training.start import Start

MOST_APART = 1.0
"""Seconds between the clocks of two hosts; logs and locks of storage compare them."""

SHOWN = 3
"""Number of differences of a process that a line names."""


def check_hosts(run: Run, start: Start) -> Part:
    """Compare all processes; these call it together."""
    exchange(None)  # compiles what the next call, whose end all see at once, must not wait for
    exchange(None)
    clocks = exchange(time.time())
    return judge_hosts(exchange(host_facts(run, start)), clocks)


def host_facts(run: Run, start: Start) -> dict[str, Any]:
    """Describe this process: where it runs, what it has, and `equal`, what all must share."""
    address = cluster.coordinator() or ""
    return {
        "host": socket.gethostname(),
        "cores": available_cores(),
        "memory": _memory(),
        "devices": dict(collections.Counter(one.device_kind for one in jax.local_devices())),
        "coordinator": address.rpartition(":")[0],
        "coordinator_is": supervisor.addresses(address),
        "equal": {
            **describe_run(run.config, run.data_summary),
            "weights in config.init": lineage.digest(start.variables),
            "version of Python": platform.python_version(),
            "version of libtpu": _version("libtpu"),
            # Of CUDA on a GPU, of libtpu's build on a TPU.
            "version of the devices' platform": jax.devices()[0].client.platform_version,
        },
    }


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def judge_hosts(each: Sequence[Mapping[str, Any]], clocks: Sequence[float]) -> Part:
    """Judge the facts of all processes, and what their clocks showed at one moment, in seconds."""
    names = [one["host"] for one in each]
    devices: collections.Counter[str] = collections.Counter()
    for one in each:
        devices.update(one["devices"])
    apart = max(clocks) - min(clocks)
    unlike: dict[int, list[tuple[str, Any, Any]]] = {}
    for process, key, first, theirs in differences([one["equal"] for one in each]):
        unlike.setdefault(process, []).append((key, first, theirs))
    failures = [_unlike(named(process, names), found) for process, found in unlike.items()]
    if apart > MOST_APART:
        ahead, behind = clocks.index(max(clocks)), clocks.index(min(clocks))
        failures.append(
            f"the clock of {named(ahead, names)} is {apart:,.1f} s ahead of that of "
            f"{named(behind, names)}; set both by one time server (chrony or ntpd)"
        )
    failures += _loopback(each, names)
    versions = {k: v for k, v in each[0]["equal"].items() if k.startswith("version of ")}
    figures = {
        "hosts": len(set(names)),
        "processes": [
            {key: one[key] for key in ("host", "cores", "memory", "devices")} for one in each
        ],
        "devices": dict(devices),
        "versions": {key.removeprefix("version of "): value for key, value in versions.items()},
        "differences": [
            {"process": process, "what": key, "first": first, "theirs": theirs}
            for process, found in unlike.items()
            for key, first, theirs in found
        ],
        "clocks_apart": round(apart, 3),
    }
    kinds = ", ".join(f"{count} {kind}" for kind, count in devices.items())
    lines = (
        f"{len(set(names))} host(s), {len(each)} process(es), devices: {kinds}",
        f"clocks {apart:.3f} s apart",
    )
    return Part("who", figures, lines, tuple(failures))


def _unlike(name: str, found: Sequence[tuple[str, Any, Any]]) -> str:
    # Versions first: they explain what else differs.
    found = sorted(found, key=lambda one: not one[0].startswith("version of "))
    few = found[:SHOWN]
    shown = ", ".join(f"{key} ({theirs!r} instead of {first!r})" for key, first, theirs in few)
    if len(found) > SHOWN:
        shown += f" and {len(found) - SHOWN} more (check.json lists them)"
    return (
        f"{name} differs from process 0 in {shown}; install the same versions and code on all "
        f"hosts, and give all the same config and data"
    )


def _loopback(each: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    if len(set(names)) == 1:
        return []
    found = []
    for process, one in enumerate(each):
        own = [ip for ip in one["coordinator_is"] if ip.startswith(supervisor.LOOPBACK)]
        if own:
            found.append(
                f"on {named(process, names)} the coordinator {one['coordinator']} resolves to "
                f"{own[0]}, which is each host itself; take that line out of its /etc/hosts, or "
                f"give --coordinator_address with the address of process 0 in the network"
            )
    return found
