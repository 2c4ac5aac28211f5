"""What makes a run the same run: in its workdir when it resumes, and in all its processes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from etils import epath
from ml_collections import ConfigDict

import agcnn_jax
from agcnn_jax.config.check import check_config, flatten, is_read
from agcnn_jax.config.keys import FIXED, KEYS, SCORED
from agcnn_jax.config.kinds import ANY, TEXT, WHOLE, check_entries, count_from
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.storage import exists, is_remote, read_json, write_json

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")

_ADDED = ("attention.crop_from", "eval.crops", "learning_rate_decay", "remat")
"""Keys that version 0.1 did not have; their defaults are what it did."""

_DATA = dict.fromkeys(("provenance", "fingerprint", "protocol"), (TEXT, ANY)) | dict.fromkeys(
    ("images", "train", "validation", "test", "shared_patients"), (WHOLE, count_from(0))
)


def keep_config(config: ConfigDict, workdir: epath.Path, data: dict[str, Any]) -> None:
    """Write `data.json`, then `config.json`, or compare them as `compare_config` does."""
    if not compare_config(config, workdir, data):
        for name, value in (("data.json", data), ("config.json", json.loads(config.to_json()))):
            write_json(workdir / name, value, "make it writable, or choose another --workdir")


def compare_config(config: ConfigDict, workdir: epath.Path, data: dict[str, Any]) -> bool:
    """Return False if a workdir holds no config; `UserError` if it holds another, or other data."""
    saved = read_config(workdir)
    if saved is None:
        return False
    ours, theirs = flatten(config.to_dict()), flatten(saved.to_dict())
    read = {key for key in KEYS if is_read(key, ours) or is_read(key, theirs)}
    kept = {key for key in read if KEYS[key].changes in (FIXED, SCORED)}
    _compare(workdir, "config", kept, ours, theirs)
    ours, theirs = flatten(data), flatten(read_data(workdir))
    _compare(workdir, "data", {*ours, *theirs}, ours, theirs)
    return True


def _compare(workdir: epath.Path, what: str, keys: set[str], ours: Any, theirs: Any) -> None:
    pairs = {key: (ours.get(key), theirs.get(key)) for key in sorted(keys)}
    if found := [f"{k} is {a!r}, there {b!r}" for k, (a, b) in pairs.items() if not same(a, b)]:
        raise UserError(
            f"--workdir {workdir} was made with another {what}: {'; '.join(found)}; choose "
            f"another --workdir, or repeat that {what}"
        )


def same(ours: Any, theirs: Any) -> bool:
    """Tell whether two values are equal as JSON, which has no tuples."""
    return bool(json.loads(json.dumps(ours)) == json.loads(json.dumps(theirs)))


def check_data(workdir: epath.Path, fingerprint: str, data_dir: str) -> None:
    """Raise `UserError` if a folder no longer holds the data that a run was made with."""
    if read_data(workdir)["fingerprint"] != fingerprint:
        raise UserError(
            f"{data_dir} holds other data than --workdir {workdir} was trained on; prepare the "
            f"same data again, or, to use this data, add --config.data.dir={data_dir}"
        )


def read_data(workdir: epath.Path) -> dict[str, Any]:
    """Read a workdir's `data.json`, see `Run.data_summary`; `UserError` if it is damaged."""
    path = workdir / "data.json"
    data = read_json(path)
    check_entries(data, _DATA, str(path), "restore it, or choose another --workdir")
    return data


def read_config(workdir: epath.Path) -> ConfigDict | None:
    """Read a workdir's `config.json`; None if there is none, `UserError` if it is no config."""
    path = workdir / "config.json"
    if not exists(path, None if is_remote(path) else "choose another --workdir"):
        return None
    values = read_json(path)
    for key in _ADDED:
        *section, name = key.split(".")
        keys = values.setdefault(section[0], {}) if section else values
        if isinstance(keys, dict):
            keys.setdefault(name, KEYS[key].default)
    try:
        # ConfigDict refuses impossible names of keys, such as those with dots.
        saved = ConfigDict(values)
        check_config(saved)
    except (UserError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} is not as a run wrote it: {error}; restore it, or choose another --workdir"
        ) from error
    return saved


def describe_run(config: ConfigDict, data: Mapping[str, Any]) -> dict[str, Any]:
    """Describe by name what all processes share: config, code, libraries and `data_summary`."""
    values, root = flatten(config.to_dict()), Path(agcnn_jax.__file__).parent
    # Hosts may find the same files elsewhere.
    places = ("data.dir", "workdir")
    facts = {f"config.{key}": value for key, value in values.items() if key not in places}
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        facts[f"file agcnn_jax/{name}"] = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    facts |= {f"version of {name}": metadata.version(name) for name in LIBRARIES}
    return facts | {f"data {key}": value for key, value in data.items()}
