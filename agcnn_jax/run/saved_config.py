"""Configs kept: every run's workdir holds the config that it was made with."""

from __future__ import annotations

import json
from typing import Any

import ml_collections
from etils import epath

from agcnn_jax.run.config import check_config, flatten, is_read
from agcnn_jax.run.keys import FIXED, KEYS, SCORED
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.storage import exists, is_remote, read_json, write_json


def keep_config(
    config: ml_collections.ConfigDict, workdir: epath.Path, data: dict[str, Any]
) -> None:
    """Write a workdir's `config.json` and `data.json`, or compare them: see `compare_config`.

    Args:
        config: the resolved config.
        workdir: of the run.
        data: what the run records about its data; see `Experiment.data_summary`.

    Raises:
        UserError: if they differ or cannot be written.
    """
    if compare_config(config, workdir, data):
        return
    remedy = "make it writable, or choose another --workdir"
    write_json(workdir / "data.json", data, remedy)
    write_json(workdir / "config.json", json.loads(config.to_json()), remedy)


def compare_config(
    config: ml_collections.ConfigDict, workdir: epath.Path, data: dict[str, Any]
) -> bool:
    """Tell whether a workdir holds a run's config, and compare it; see `keep_config`.

    Raises:
        UserError: if the workdir belongs to another config or to other data, naming what differs.
    """
    saved = read_config(workdir)
    if saved is None:
        return False
    ours, theirs = flatten(config.to_dict()), flatten(saved.to_dict())
    compared = {
        key
        for key, row in KEYS.items()
        if row.changes in (FIXED, SCORED) and (is_read(key, ours) or is_read(key, theirs))
    }
    _refuse_differences(
        workdir,
        "config",
        {key: value for key, value in ours.items() if key in compared},
        {key: value for key, value in theirs.items() if key in compared},
    )
    _refuse_differences(workdir, "data", data, read_json(workdir / "data.json"))
    return True


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
    ours, theirs = flatten(ours), flatten(theirs)
    different = [
        f"{key} is {ours.get(key)!r}, there {theirs.get(key)!r}"
        for key in sorted(ours.keys() | theirs.keys())
        if not same(ours.get(key), theirs.get(key))
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
    """Read a workdir's `config.json`; None if there is none.

    Raises:
        UserError: if it cannot be read, or holds something else than a config.
    """
    path = workdir / "config.json"
    remedy = None if is_remote(path) else "choose another --workdir"
    if not exists(path, remedy):
        return None
    values = read_json(path)
    try:
        # ConfigDict refuses names that a key cannot have, such as those with dots.
        saved = ml_collections.ConfigDict(values)
        check_config(saved)
    except (UserError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} is not as a run wrote it: {error}; restore it, or train again in another "
            "--workdir"
        ) from error
    return saved
