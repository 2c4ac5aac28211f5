"""Converted weights on disk: an orbax checkpoint, and a `weights.json` that describes it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from agcnn_jax.config.kinds import (
    ANY,
    CHANNELS,
    LIST_OF_NUMBERS,
    LIST_OF_TEXTS,
    OBJECT,
    SPREADS,
    TEXT,
    WHOLE,
    Limits,
    check_entries,
    count_from,
    or_none,
)
from agcnn_jax.interop import DESCRIPTION
from agcnn_jax.interop.hub import IMAGENET
from agcnn_jax.models.agcnn import BRANCHES
from agcnn_jax.run.lineage import Lineage, digest
from agcnn_jax.runtime.devices import as_numpy, this_process_only
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.storage import REACHABLE, absolute, exists, is_remote, read_json, reason

VARIABLES = "variables"
FORMAT = 2
CONVERT_AGAIN = "convert the weights again with data_prep/torch_weights.py"

_ENTRIES = {
    **dict.fromkeys(("backbone", "digest", "pooling"), (TEXT, ANY)),
    "branches": (LIST_OF_TEXTS, Limits("of AG-CNN's branches", lambda x: set(x) <= set(BRANCHES))),
    "channels": (WHOLE, count_from(1)),
    "classes": (or_none(LIST_OF_TEXTS), ANY),
    "lineage": (OBJECT, ANY),
    "mean": (LIST_OF_NUMBERS, CHANNELS),
    "std": (LIST_OF_NUMBERS, SPREADS),
}
"""The entries of `weights.json` that loading needs; `classes` may be null."""

SETTINGS = ("backbone", "mean", "pooling", "std")
"""The config's keys whose values are those of `weights.json`."""


def imagenet_directory(backbone: str) -> str:
    """Return the folder where configs look for a backbone's converted ImageNet weights."""
    return f"weights/{backbone}_imagenet"


def missing_imagenet(backbone: str, directory: str) -> str:
    """Say that a config's ImageNet weights are missing, and give the command that gets them."""
    return (
        f"config.init is {directory!r}, which holds no weights yet; get them with: python "
        f"data_prep/torch_weights.py --weights {IMAGENET[backbone].name} --backbone {backbone} "
        f"--out {directory} (or start from random weights: --config.init=random)"
    )


def is_weights(directory: str | os.PathLike[str]) -> bool:
    """Return True if a folder holds converted weights."""
    return exists(absolute(directory) / DESCRIPTION)


def save_weights(directory: Path, variables: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Write converted weights to a new folder.

    Args:
        directory: the folder; must be missing or empty.
        variables: `{"params": {branch: ...}, "batch_stats": {branch: ...}}`, arrays.
        about: JSON values for `weights.json`, `lineage` included; the format and the digest of
            `variables` are added.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(directory.resolve() / VARIABLES, dict(variables))
    text = json.dumps({"format": FORMAT, "digest": digest(variables), **about}, indent=2)
    (directory / DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def describe(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the description of converted weights.

    Returns:
        `backbone`, `channels`, `branches`, `files` (each with `name` and `sha256`), `source`,
        `kind`, `class_count`, `classes` (names or None), `pooling`, `mean`, `std`, `used` (number
        of tensors), `left_out` (the reason for each unused tensor), `digest` (of the arrays),
        `trained_on` (in words) and `lineage` (see `Lineage.to_json`).

    Raises:
        UserError: if the description is missing or damaged.
    """
    path = absolute(directory) / DESCRIPTION
    about = read_json(path, CONVERT_AGAIN)
    if (version := about.get("format")) != FORMAT:
        raise UserError(
            f"{path} is of format {version}, but this program reads {FORMAT}; {CONVERT_AGAIN}"
        )
    check_entries(about, _ENTRIES, str(path), CONVERT_AGAIN)
    return about


def lineage(directory: str | os.PathLike[str]) -> Lineage:
    """Read the lineage of converted weights.

    Raises:
        UserError: if the description is missing or damaged.
    """
    try:
        return Lineage.from_json(describe(directory)["lineage"])
    except (ValueError, AttributeError) as error:
        path = absolute(directory) / DESCRIPTION
        raise UserError(f"{path} holds no lineage; {CONVERT_AGAIN}") from error


def load_weights(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """Load all branches of converted weights.

    Returns:
        `{"params": {branch: ...}, "batch_stats": {branch: ...}}`, float32 numpy arrays in host
        memory.

    Raises:
        UserError: if the folder holds no converted weights, or damaged or replaced ones.
    """
    about = describe(directory)
    path = absolute(directory) / VARIABLES
    try:
        with ocp.StandardCheckpointer(multiprocessing_options=this_process_only()) as checkpointer:
            template = as_numpy(checkpointer.metadata(path).item_metadata.tree)
            variables = checkpointer.restore(path, template)
    except Exception as error:
        # The exceptions of object stores' clients have no common class.
        known = isinstance(error, OSError | ValueError | KeyError | AttributeError)
        if not known and not is_remote(path):
            raise
        remedy = f"{REACHABLE}, or {CONVERT_AGAIN}" if is_remote(path) else CONVERT_AGAIN
        raise UserError(f"{path} cannot be read ({reason(path, error)}); {remedy}") from error
    for branch in about["branches"]:
        # Orbax leaves out branches without statistics.
        variables["batch_stats"].setdefault(branch, {})
    if digest(variables) != about["digest"]:
        raise UserError(
            f"{path} holds other arrays than those that {DESCRIPTION} describes; {CONVERT_AGAIN}"
        )
    return variables


def load_backbone(
    directory: str | os.PathLike[str], identity: Mapping[str, Any], branch: str = "global"
) -> dict[str, Any]:
    """Load one branch's backbone, to start training from.

    Args:
        directory: of converted weights.
        identity: what they must match; any of `backbone`, `channels`, `pooling`, `labels`.
        branch: `global` or `local`; weights of a single network serve both.

    Returns:
        `{"params": ..., "batch_stats": ...}` of the backbone alone, float32 numpy arrays.

    Raises:
        UserError: if there are no weights, or they do not match.
    """
    about = describe(directory)
    entries = {**about, "labels": about["classes"]}
    for key, value in identity.items():
        if entries[key] != value:
            remedy = "use other weights, or a config that fits these"
            if key == "channels":
                remedy = (
                    f"--config.mean='{tuple(about['mean'])}' --config.std='{tuple(about['std'])}' "
                    f"are what these weights expect"
                )
            raise UserError(
                f"config.init {os.fspath(directory)} has another {key}: {json.dumps(entries[key])} "
                f"instead of {json.dumps(value)}; {remedy}"
            )
    variables = load_weights(directory)
    source = branch if branch in about["branches"] else "global"
    return {kind: variables[kind][source]["backbone"] for kind in ("params", "batch_stats")}
