"""What the processes of a run must have in common: same config, same code, same data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import ml_collections

import agcnn_jax
from agcnn_jax.run.config import flatten

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")

PLACES = frozenset({"data.dir", "workdir"})
"""Keys that may differ: the same data and the same workdir may lie elsewhere on each host."""


def describe_run(config: ml_collections.ConfigDict, data: Mapping[str, Any]) -> dict[str, Any]:
    """What processes of a run must have in common.

    Args:
        config: the resolved config.
        data: see `Experiment.data_summary`.

    Returns:
        The config's values, a digest of every source file of the package, the versions of the
        libraries that it computes with, and what the data are; by name.
    """
    root = Path(agcnn_jax.__file__).parent
    return {
        **{f"config.{k}": v for k, v in flatten(config.to_dict()).items() if k not in PLACES},
        **{
            f"file agcnn_jax/{path.relative_to(root).as_posix()}": _hash(path.read_bytes())
            for path in sorted(root.rglob("*.py"))
        },
        **{f"version of {name}": metadata.version(name) for name in LIBRARIES},
        **{f"data {key}": value for key, value in data.items()},
    }


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
