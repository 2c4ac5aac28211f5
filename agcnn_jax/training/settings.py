"""Configs checked, and kept: every run's workdir holds the config that it was made with."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ml_collections
from etils import epath

from agcnn_jax.attention.heatmap import STATISTICS
from agcnn_jax.data.augment import CROPS
from agcnn_jax.errors import UserError
from agcnn_jax.models.agcnn import BRANCHES
from agcnn_jax.models.layers import POOLINGS
from agcnn_jax.models.registry import BACKBONES
from agcnn_jax.storage import exists, is_remote, read_json, write_json
from agcnn_jax.training.strategies import STRATEGIES

FREE_KEYS = frozenset(
    {
        "workdir",
        "data.dir",
        "eval_batch_size",
        "log_every",
        "checkpoint_every",
        "peer_timeout",
        "profile",
    }
)
"""Keys that may change between the calls of one run, since no result depends on them.

The data themselves are compared by their fingerprint instead of by where they lie.
"""

PER_BRANCH = "one positive number, or three for global, local, fusion"

SCALINGS: dict[str, Callable[[float], float]] = {
    "none": lambda ratio: 1.0,
    "linear": lambda ratio: ratio,
    "sqrt": math.sqrt,
}
"""By how much a learning rate grows when the batch grows by a ratio."""

_CHOICES = {
    "backbone": tuple(BACKBONES),
    "pooling": POOLINGS,
    "dtype": ("float32", "bfloat16", "float64"),
    "matmul_precision": ("default", "high", "highest"),
    "batch_norm": ("global", "device"),
    "init_normalisation": ("config", "own"),
    "strategy": tuple(STRATEGIES),
    "local_input": ("crop", "image"),
    "learning_rate_scaling": tuple(SCALINGS),
    "augment.crop": CROPS,
    "attention.statistic": STATISTICS,
    "attention.cropper": ("host", "device"),
    "data.allow_unlisted": (False, True),
}
_ELEMENTS: dict[str, Any] = {
    "batch_size": int,
    "epochs": int,
    "learning_rate": int | float,
    "reference_batch_size": int,
    "mean": int | float,
    "std": int | float,
    "augment.scale": int | float,
    "augment.ratio": int | float,
}
"""What the entries of lists must be."""

_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "seed": (lambda x: 0 <= x < 2**31, "at least 0 and below 2**31"),
    "attention.tau": (lambda x: 0 <= x < 1, "at least 0 and below 1"),
    "input_size": (lambda x: x >= 32, "at least 32"),
    "drop_after": (lambda x: 0 < x <= 1, "above 0 and at most 1"),
    "drop_factor": (lambda x: x >= 1, "at least 1"),
    "momentum": (lambda x: 0 <= x < 1, "at least 0 and below 1"),
    "weight_decay": (lambda x: x >= 0, "at least 0"),
    "max_steps": (lambda x: x >= 0, "at least 0"),
    "eval_batch_size": (lambda x: x >= 1, "at least 1"),
    "log_every": (lambda x: x >= 1, "at least 1"),
    "checkpoint_every": (lambda x: x >= 1, "at least 1"),
    "accumulate": (lambda x: x >= 1, "at least 1"),
    "warmup_epochs": (lambda x: x >= 0, "at least 0"),
    "peer_timeout": (lambda x: x >= 1, "at least 1"),
    "profile": (lambda x: x >= 0, "at least 0"),
    "augment.scale": (
        lambda x: len(x) == 2 and 0 < x[0] <= x[1] <= 1,
        "two rising numbers in 0..1",
    ),
    "augment.ratio": (lambda x: len(x) == 2 and 0 < x[0] <= x[1], "two rising positive numbers"),
    "std": (lambda x: len(x) > 0 and min(x) > 0, "positive, one number a channel"),
    "batch_size": (lambda x: len(x) in (1, 3) and min(x) >= 1, PER_BRANCH),
    "reference_batch_size": (lambda x: len(x) in (1, 3) and min(x) >= 1, PER_BRANCH),
    "epochs": (lambda x: len(x) in (1, 3) and min(x) >= 1, PER_BRANCH),
    "learning_rate": (lambda x: len(x) in (1, 3) and min(x) > 0, PER_BRANCH),
}


def check_config(config: ml_collections.ConfigDict, source: str = "the config") -> None:
    """Raise `UserError` naming the first key that is missing or whose value cannot be used."""
    values = dict(flatten(config.to_dict()))
    for key in (*_CHOICES, *_RANGES, "mean"):
        if key not in values:
            raise UserError(f"{source} has no {key}; configs/common.py lists the keys")
    for key, kind in _ELEMENTS.items():
        for element in values[key]:
            if isinstance(element, bool) or not isinstance(element, kind):
                wanted = "whole numbers" if kind is int else "numbers"
                raise UserError(f"config.{key} is {values[key]!r}; it must hold {wanted}")
    for key, choices in _CHOICES.items():
        if values[key] not in choices:
            raise UserError(
                f"config.{key} is {values[key]!r}; use one of {', '.join(map(str, choices))}"
            )
    for key, value in values.items():
        numbers = value if isinstance(value, Sequence) else (value,)
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise UserError(f"config.{key} is {value!r}; it must be finite")
    for key, (holds, wanted) in _RANGES.items():
        if not holds(values[key]):
            raise UserError(f"config.{key} is {values[key]!r}; it must be {wanted}")
    if len(values["mean"]) != len(values["std"]):
        raise UserError(
            f"config.mean has {len(values['mean'])} channels and config.std "
            f"{len(values['std'])}; give both one number a channel"
        )


def per_branch(value: Sequence[Any]) -> dict[str, Any]:
    """Read a config value that holds one entry for all branches, or one for each."""
    values = tuple(value)
    return dict(zip(BRANCHES, values * (len(BRANCHES) // len(values)), strict=True))


def flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield a nested config's leaves as `("data.dir", value)`."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def keep_config(
    config: ml_collections.ConfigDict, workdir: epath.Path, data: dict[str, Any]
) -> None:
    """Write the workdir's `config.json` and `data.json`, or check that they say the same.

    Args:
        config: the resolved config.
        workdir: of the run.
        data: what the run records about its data; see `Experiment.data_summary`.

    Raises:
        UserError: if the workdir belongs to another config or to other data, naming what differs,
            or cannot be written.
    """
    saved = read_config(workdir)
    if saved is None:
        remedy = "make it writable, or choose another --workdir"
        write_json(workdir / "data.json", data, remedy)
        write_json(workdir / "config.json", json.loads(config.to_json()), remedy)
        return
    _refuse_differences(workdir, "config", config.to_dict(), saved.to_dict())
    _refuse_differences(workdir, "data", data, read_json(workdir / "data.json"))


def check_data(workdir: epath.Path, fingerprint: str, data_dir: str) -> None:
    """Raise `UserError` if a folder no longer holds the data that a run was made with."""
    trained = read_json(workdir / "data.json").get("fingerprint")
    if trained != fingerprint:
        raise UserError(
            f"{data_dir} holds other data than --workdir {workdir} was trained on; prepare the "
            f"same again, or name the folder, if you mean these, with --config.data.dir={data_dir}"
        )


def _refuse_differences(
    workdir: epath.Path, what: str, ours: dict[str, Any], theirs: dict[str, Any]
) -> None:
    ours, theirs = (dict(flatten(tree)) for tree in (ours, theirs))
    free = set(FREE_KEYS)
    if ours.get("learning_rate_scaling") == theirs.get("learning_rate_scaling") == "none":
        free.add("reference_batch_size")
    different = [
        f"{key} is {ours.get(key)!r}, there {theirs.get(key)!r}"
        for key in sorted(ours.keys() | theirs.keys())
        if key not in free and not same(ours.get(key), theirs.get(key))
    ]
    if different:
        raise UserError(
            f"--workdir {workdir} was made with another {what}: {'; '.join(different)}; choose "
            f"another --workdir, or repeat that {what}"
        )


def same(ours: Any, theirs: Any) -> bool:
    """Whether two values of a config are the same, one of them perhaps read from JSON."""
    # Which knows no tuples.
    return bool(json.loads(json.dumps(ours)) == json.loads(json.dumps(theirs)))


def read_config(workdir: epath.Path) -> ml_collections.ConfigDict | None:
    """Read a workdir's `config.json`; None if there is none."""
    path = workdir / "config.json"
    remedy = None if is_remote(path) else "choose another --workdir"
    if not exists(path, remedy):
        return None
    return ml_collections.ConfigDict(read_json(path))
