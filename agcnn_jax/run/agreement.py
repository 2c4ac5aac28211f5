"""What all processes of a run must have in common: config, code, libraries and data."""

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
"""Keys that may differ, since hosts may find the same files in different places."""


def describe_run(config: ml_collections.ConfigDict, data: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a run by what must be equal in all its processes.

    Args:
        config: the resolved config.
        data: see `Experiment.data_summary`.

    Returns:
        By name: config values, a digest of each source file of the package, versions of libraries,
        and `data`.
    """
    values, root = flatten(config.to_dict()), Path(agcnn_jax.__file__).parent
    sources = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*.py"))}
    return {
        **{f"config.{key}": value for key, value in values.items() if key not in PLACES},
        **{f"file agcnn_jax/{name}": _hash(path) for name, path in sources.items()},
        **{f"version of {name}": metadata.version(name) for name in LIBRARIES},
        **{f"data {key}": value for key, value in data.items()},
    }


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
