"""A run's config and data on disk: written, read back, and compared when the run resumes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etils import epath

import agcnn_jax
from agcnn_jax.config.keys import FIXED, KEYS, SCORED, check_values, flatten, is_read, nest
from agcnn_jax.config.kinds import ANY, TEXT, TRUTH, WHOLE, check_entries, count_from
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.storage import exists, is_remote, read_json, write_json

if TYPE_CHECKING:
    # A trained model is loaded where ml_collections is not installed.
    from ml_collections import ConfigDict

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")

_DATA = {
    **dict.fromkeys(("provenance", "fingerprint", "protocol"), (TEXT, ANY)),
    "synthetic": (TRUTH, ANY),
    **dict.fromkeys(
        ("images", "train", "validation", "test", "shared_patients"), (WHOLE, count_from(0))
    ),
}


def write_config(config: ConfigDict, workdir: epath.Path, data: dict[str, Any]) -> None:
    """Write `data.json`, then `config.json`: a workdir with a config has the rest."""
    for name, value in (("data.json", data), ("config.json", json.loads(config.to_json()))):
        write_json(workdir / name, value, "make it writable, or choose another --workdir")


def read_config(workdir: epath.Path) -> ConfigDict | None:
    """Read a workdir's `config.json`; None if there is none, `UserError` as in `parse_config`."""
    path = workdir / "config.json"
    if not exists(path, None if is_remote(path) else "choose another --workdir"):
        return None
    from ml_collections import ConfigDict

    return ConfigDict(parse_config(read_json(path), str(path)))


def parse_config(
    saved: Mapping[str, Any],
    source: str,
    remedy: str = "restore it, or train again in another --workdir",
) -> dict[str, Any]:
    """Check a config that was read from JSON.

    Args:
        saved: nested, such as the content of a run's `config.json`.
        source: where it comes from, for messages.
        remedy: what to do, for messages.

    Returns:
        All keys of the table, nested, as plain Python values in the form that programs read.

    Raises:
        UserError: for a key that is missing or unknown, or a value that is impossible.
    """
    try:
        return nest(check_values(flatten(saved)))
    except UserError as error:
        raise UserError(
            f"{source} is not as this version of agcnn-jax writes it: {error}; {remedy}"
        ) from None


def read_data(workdir: epath.Path) -> dict[str, Any]:
    """Read a workdir's `data.json`, see `Run.data_summary`; `UserError` if it is damaged."""
    path = workdir / "data.json"
    data = read_json(path)
    check_entries(data, _DATA, str(path), "restore it, or choose another --workdir")
    return data


def check_unchanged(
    config: ConfigDict, data: dict[str, Any], saved: ConfigDict, workdir: epath.Path
) -> None:
    """Raise `UserError` if a workdir, whose config is `saved`, holds another config or data."""
    ours, theirs = flatten(config.to_dict()), flatten(saved.to_dict())
    read = {key for key in KEYS if is_read(key, ours) or is_read(key, theirs)}
    kept = {key for key in read if KEYS[key].changes in (FIXED, SCORED)}
    our_data, their_data = flatten(data), flatten(read_data(workdir))
    _check_equal(workdir, "config", kept, ours, theirs)
    _check_equal(workdir, "data", {*our_data, *their_data}, our_data, their_data)


def _check_equal(workdir: epath.Path, what: str, keys: set[str], ours: Any, theirs: Any) -> None:
    pairs = {key: (ours.get(key), theirs.get(key)) for key in sorted(keys)}
    changes = [f"{k} is {a!r}, there {b!r}" for k, (a, b) in pairs.items() if not same(a, b)]
    if changes:
        raise UserError(
            f"--workdir {workdir} was made with another {what}: {'; '.join(changes)}; choose "
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
