"""Processes of a run compared with each other: same config, same code, same data."""

from __future__ import annotations

import hashlib
import json
from importlib import metadata
from pathlib import Path
from typing import Any

import ml_collections

import agcnn_jax
from agcnn_jax.errors import UserError
from agcnn_jax.training.parallel import exchange
from agcnn_jax.training.settings import flatten

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")

PLACES = frozenset({"data.dir", "workdir"})
"""Keys that may differ: the same data and the same workdir may lie elsewhere on each host."""


def require_agreement(config: ml_collections.ConfigDict, data: dict[str, Any]) -> None:
    """Compare this process's config, code and data with those of all others.

    Args:
        config: the resolved config.
        data: see `Experiment.data_summary`.

    Raises:
        UserError: in every process, naming the first difference and the process.
    """
    ours = json.loads(json.dumps({**describe_config(config), **describe_code(), **about(data)}))
    first, *others = exchange(ours)
    for process, theirs in enumerate(others, start=1):
        for key in sorted(first.keys() | theirs.keys()):
            if first.get(key) != theirs.get(key):
                raise UserError(
                    f"process {process} has another {key} than process 0: {theirs.get(key)!r} "
                    f"instead of {first.get(key)!r}; start all with the same config, code and data"
                )


def describe_config(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The config's values, by key."""
    values = flatten(config.to_dict())
    return {f"config.{key}": value for key, value in values if key not in PLACES}


def describe_code() -> dict[str, str]:
    """A digest of every source file of the package, and the versions of what it computes with."""
    root = Path(agcnn_jax.__file__).parent
    files = {
        f"file agcnn_jax/{path.relative_to(root).as_posix()}": hashlib.sha256(
            path.read_bytes()
        ).hexdigest()[:12]
        for path in sorted(root.rglob("*.py"))
    }
    return files | {f"version of {name}": metadata.version(name) for name in LIBRARIES}


def about(data: dict[str, Any]) -> dict[str, Any]:
    """What the data are, by key."""
    return {f"data {key}": value for key, value in data.items()}
