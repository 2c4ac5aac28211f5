"""Reads the tensors of a PyTorch checkpoint file as numpy arrays, without running its code."""

from __future__ import annotations

import hashlib
import json
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from agcnn_jax.runtime.errors import UserError, packages_of
from agcnn_jax.runtime.storage import reported

METADATA_KEY = "agcnn_jax"
"""Entry of a safetensors file's metadata that describes one of our exports."""

_STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model")
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_LARGEST_HEADER = 100_000_000  # of the safetensors format


class TensorFile(NamedTuple):
    """The content of a checkpoint file.

    Attributes:
        name: the file's name, for messages.
        tensors: by their names in the file, in its order.
        other_entries: names of the entries next to the state dict, such as `epoch`, `optimizer`.
        metadata: the description in one of our exports; empty for any other file.
        sha256: of the whole file, hex.
    """

    name: str
    tensors: dict[str, np.ndarray]
    other_entries: tuple[str, ...]
    metadata: dict[str, Any]
    sha256: str


def read_tensor_file(path: Path) -> TensorFile:
    """Read a safetensors file, or a pickled one with torch's `weights_only=True`.

    Raises:
        UserError: if the file is missing or not a checkpoint, if it holds anything but tensors,
            or if it is pickled and torch is not installed.
    """
    remedy = "give a checkpoint file, or a name on the hub such as timm/resnet50.tv_in1k"
    with reported(f"--weights {path}", "read", remedy), path.open("rb") as file:
        start = file.read(9)
        file.seek(0)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if start[8:] == b"{" and int.from_bytes(start[:8], "little") <= _LARGEST_HEADER:
        tensors, metadata = _read_safetensors(path)
        return TensorFile(path.name, tensors, (), metadata, sha256)
    if start.startswith((_ZIP, _PICKLE)):
        tensors, other_entries = _state_dict(path, _load_pickled(path))
        return TensorFile(path.name, tensors, other_entries, {}, sha256)
    raise UserError(
        f"--weights {path}: not a PyTorch checkpoint; give a .safetensors file or one written by "
        f"torch.save (.pth, .pt, .pth.tar, .pkl, .bin)"
    )


def _read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise _damaged(path, "safetensors file", error) from error
    return tensors, metadata


def _load_pickled(path: Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"--weights {path}: only torch reads a pickled file; install "
            f"{packages_of('parity')}, or convert the file to .safetensors where torch is installed"
        ) from error
    try:
        with torch.serialization.safe_globals(_numpy_scalars()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about rare pickle protocols
            return torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        OSError,
        RuntimeError,
        EOFError,
        ValueError,
        LookupError,
    ) as error:
        text, pickled = str(error), isinstance(error, pickle.UnpicklingError)
        if pickled and ("Unsupported" in text or "WeightsUnpickler" in text):
            raise UserError(
                f"--weights {path}: holds Python objects besides tensors ({_refused(text)}), which "
                f"could run any code, so it is not read; save the tensors alone where it was made: "
                f"torch.save(model.state_dict(), FILE)"
            ) from error
        raise _damaged(path, "PyTorch checkpoint", error) from error


def _numpy_scalars() -> list[Any]:
    """Return the globals of pickled numpy numbers, such as a best AUC beside the state dict.

    Each makes a number from a dtype and bytes, nothing else; torch documents allowing them.
    """
    scalar = type(np.float64(0)).__reduce__(np.float64(0))[0]
    dtypes = [type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool")]
    # Files written with numpy 1 name the function by its old module.
    return [(scalar, "numpy.core.multiarray.scalar"), scalar, np.dtype, *dtypes]


def _refused(message: str) -> str:
    """Return what torch refused according to its message, without its advice to trust the file."""
    lines = [line.strip() for line in message.splitlines() if "Unsupported" in line]
    return lines[0].split("Unsupported")[-1].split(" was not")[0].strip() if lines else "a pickle"


def _damaged(path: Path, kind: str, error: Exception) -> UserError:
    reason = str(error).strip().split("\n")[0]
    return UserError(f"--weights {path}: the {kind} is damaged ({reason}); download it again")


def _state_dict(path: Path, loaded: Any) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    other_entries: tuple[str, ...] = ()
    entries = loaded if isinstance(loaded, Mapping) else {}
    key = next((key for key in _STATE_DICT_KEYS if isinstance(entries.get(key), Mapping)), None)
    if key is not None:
        other_entries = tuple(str(other) for other in loaded if other != key)
        loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not loaded:
        raise UserError(
            f"--weights {path}: holds no state dict but a {type(loaded).__name__}; save "
            f"model.state_dict()"
        )
    tensors = {}
    for key, value in loaded.items():
        if not hasattr(value, "detach"):
            raise UserError(
                f"--weights {path}: {key!r} is not a tensor but a {type(value).__name__}; save "
                f"model.state_dict() alone"
            )
        value = value.detach()
        # numpy has no bfloat16.
        tensors[str(key)] = (value.float() if value.is_floating_point() else value).numpy()
    return tensors, other_entries
