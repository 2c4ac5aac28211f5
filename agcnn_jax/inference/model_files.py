"""A model's folder as the Hugging Face hub takes it: weights, config, calibration, checksums."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epath

from agcnn_jax.config.kinds import (
    ANY,
    LIST_OF_TEXTS,
    OBJECT,
    TEXT,
    WHOLE,
    between,
    check_entries,
    count_from,
)
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.storage import REACHABLE, is_remote, new_folder, parse_json, reported

if TYPE_CHECKING:
    from agcnn_jax.models.agcnn import Variables

WEIGHTS, CONFIG, LINEAGE = "model.safetensors", "config.json", "lineage.json"
PROGRAM = "model.onnx"
"""The whole model with its weights, in place of the weights alone."""
CALIBRATION = "calibration.json"
CARD = "README.md"
SUMS = "SHA256SUMS"
NEEDED = (CONFIG, LINEAGE)
FORMAT = 2
PLACES = ("workdir", "init", "data.dir", "data.lists")
"""Keys that name folders of the machine that trained, which an export leaves out."""
AGAIN = "copy or download the folder again"
LARGEST = 4096
"""Side of the largest stored images that a model from elsewhere may ask for."""

_CONFIG = {
    "format": (WHOLE, count_from(1)),
    "digest": (TEXT, ANY),
    "labels": (LIST_OF_TEXTS, ANY),
    "image_size": (WHOLE, between(1, LARGEST)),
    "config": (OBJECT, ANY),
}
_LARGEST_TEXT = 1 << 28
"""Bytes of the largest file beside the weights; a lineage of a million images has less."""


def write_folder(out: Path, files: Mapping[str, bytes]) -> None:
    """Write files and the checksums of all but the card, which people may edit, to a new folder.

    Raises:
        UserError: if `out` holds files or cannot be written.
    """
    sums = "".join(
        f"{hashlib.sha256(content).hexdigest()}  {name}\n"
        for name, content in files.items()
        if name != CARD
    )
    with new_folder(out) as folder:
        for name, content in {**files, SUMS: sums.encode()}.items():
            (folder / name).write_bytes(content)


def read_folder(folder: Path | epath.Path) -> dict[str, bytes]:
    """Read the files that `SHA256SUMS` lists, and check them.

    Raises:
        UserError: if one is missing or was changed, or the folder, on a disk or in a bucket, holds
            no exported model.
    """
    sums = listed(_read(folder / SUMS), folder / SUMS)
    files = {name: _read(folder / name) for name in sums}
    for name, expected in sums.items():
        digest = hashlib.sha256(files[name]).hexdigest()
        if digest != expected:
            raise UserError(
                f"{folder / name} was changed or is damaged: its SHA-256 is {digest[:16]}..., in "
                f"{SUMS} it is {expected[:16]}...; {AGAIN}"
            )
    return files


def listed(sums: bytes, path: str | os.PathLike[str]) -> dict[str, str]:
    """Parse `SHA256SUMS` to `{file name: SHA-256}`; `UserError` if it is none of a model's."""
    lines = [line.split(maxsplit=1) for line in sums.decode(errors="replace").splitlines()]
    known = {*NEEDED, CALIBRATION, WEIGHTS, PROGRAM}
    if any(line[-1].endswith(".stablehlo") for line in lines if line):
        raise UserError(
            f"{os.fspath(path)} is of a StableHLO program, which the load.py beside it runs; for "
            f"this program, export the run with --format hub or --format onnx"
        )
    if any(len(line) != 2 or line[1] not in known for line in lines):
        raise UserError(f"{os.fspath(path)} lists other files than a model has; {AGAIN}")
    digests = {name: digest for digest, name in lines}
    models = [name for name in (WEIGHTS, PROGRAM) if name in digests]
    if len(models) > 1:
        raise UserError(
            f"{os.fspath(path)} lists {' and '.join(models)}, but a folder has one of them; {AGAIN}"
        )
    if missing := [name for name in (*(models or [WEIGHTS]), *NEEDED) if name not in digests]:
        raise UserError(f"{os.fspath(path)} does not list {missing[0]}; {AGAIN}")
    return digests


def misfit(folder: Path | epath.Path) -> UserError:
    """Return the error of a config that is not that of the weights beside it."""
    return UserError(f"{folder / CONFIG} does not fit the weights; {AGAIN}")


def check_labels(labels: Sequence[str], where: str) -> None:
    """Raise `UserError` for names that cannot be columns of a table, or keys of an answer."""
    for label, count in Counter(labels).items():
        if label and count > 1:
            raise UserError(f"{where}: {count} outputs are named {label!r}; name each differently")
        if not label.isprintable() or label.startswith(("=", "+", "-", "@")):
            raise UserError(
                f"{where}: an output is named {label!r}, which spreadsheets may take for a "
                f"formula; choose a printable name that begins with none of = + - @"
            )


def to_safetensors(variables: Variables) -> bytes:
    """Serialise variables; the name of a tensor is its path, such as `params.fusion.head.bias`."""
    # Imported here, since neither is needed to predict with an ONNX file.
    from flax import traverse_util
    from safetensors.numpy import save

    flat = traverse_util.flatten_dict(variables, sep=".")
    tensors = {name: np.ascontiguousarray(array) for name, array in flat.items()}
    return save(tensors, metadata={"format": "flax"})


def from_safetensors(content: bytes, path: str | os.PathLike[str]) -> Variables:
    """Invert `to_safetensors`; `UserError` if the file holds something else."""
    from flax import traverse_util
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(content)
        for name in tensors:
            # Without this, the one of both that comes later would win.
            if parts := [other for other in tensors if other.startswith(f"{name}.")]:
                raise ValueError(f"{name!r} is a tensor, and a folder of {parts[0]!r}")
        tree: Variables = traverse_util.unflatten_dict(tensors, sep=".")
        params, batch_stats = tree["params"], tree.setdefault("batch_stats", {})
        if not isinstance(params, dict):
            raise ValueError("params is a tensor")
        # A branch without statistics leaves no tensor.
        statistics = {branch: batch_stats.get(branch, {}) for branch in params}
    except (SafetensorError, AttributeError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{os.fspath(path)} holds no AG-CNN ({error}); {AGAIN}") from None
    return {"params": params, "batch_stats": statistics}


def read_exported_config(content: bytes, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Parse a model's `config.json`; `UserError` if it is damaged, or of another format."""
    about = parse_json(content, path, AGAIN)
    check_entries(about, _CONFIG, os.fspath(path), AGAIN)
    if about["format"] != FORMAT:
        raise UserError(
            f"{os.fspath(path)} is of format {about['format']}, but this program reads {FORMAT}; "
            f"export the model again with this version, or update agcnn-jax"
        )
    return about


def _read(path: Path | epath.Path) -> bytes:
    if is_remote(path):
        with reported(path, "read", f"{REACHABLE}, or {AGAIN}"):
            return path.read_bytes()
    with reported(path, "read", AGAIN):
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):  # a named pipe or a device would never end
            raise UserError(f"{path} is no file; {AGAIN}")
        if path.name not in (WEIGHTS, PROGRAM) and about.st_size > _LARGEST_TEXT:
            raise UserError(f"{path} has {about.st_size:,} bytes, too many for it; {AGAIN}")
        return path.read_bytes()
