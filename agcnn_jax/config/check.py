"""Checks configs against the table of keys."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections
from ml_collections.config_dict import config_dict

from agcnn_jax.config.keys import KEYS, SECTIONS, check_value
from agcnn_jax.runtime.errors import UserError


def check_config(
    config: ml_collections.ConfigDict, source: str | None = None, overridable: bool = False
) -> None:
    """Check a config against the table, and convert its values to the form that programs read.

    A single number becomes a tuple of one where several are possible, a list becomes a tuple, and
    a whole number becomes a float where a float is meant, even in a locked config.

    Args:
        config: changed in place.
        source: where it comes from, for messages.
        overridable: True if overrides are still to come, so that placeholders may be empty.

    Raises:
        UserError: for the first key that is missing, unknown or has an impossible value.
    """
    where = f"{source}: " if source else ""
    values = dict(_leaves(config))
    for key, value in values.items():
        if key not in KEYS:
            raise UserError(f"{where}{_unknown(key, value)}")
    for key in KEYS:
        if key not in values:
            section = key.split(".")[0]
            missing = f"section {section}" if section not in config and section != key else key
            raise UserError(f"{where}the config has no {missing}; train.py --help lists the keys")
    for key, value in values.items():
        section, name = _place(config, key)
        if overridable and value is None and section.get_type(name) is not type(None):
            continue
        try:
            _put(section, name, value, check_value(key, value))
        except UserError as error:
            raise UserError(f"{where}{error}") from None
    values = dict(_leaves(config))
    if len(values["mean"]) != len(values["std"]):
        raise UserError(
            f"{where}config.mean has {len(values['mean'])} channels and config.std "
            f"{len(values['std'])}; give both one number for each channel"
        )


def check_name(key: str) -> None:
    """Raise `UserError` if there is no such key, and suggest similar ones."""
    if key not in KEYS:
        raise UserError(_unknown(key))


def is_read(key: str, values: Mapping[str, Any]) -> bool:
    """Tell whether a run reads a key, given the values of all keys."""
    return all(need.holds(values[need.key]) for need in KEYS[key].needs)


def check_overrides(overrides: Mapping[str, Any], config: ml_collections.ConfigDict) -> None:
    """Raise `UserError` if the command line sets a key that the resolved config does not read."""
    values = flatten(config.to_dict())
    for key in overrides:
        for need in KEYS[key].needs:
            if not need.holds(values[need.key]):
                raise UserError(
                    f"--config.{key} has no effect while config.{need.key} is "
                    f"{values[need.key]!r}; leave it out, or {need.remedy}"
                )


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the leaves of a nested config as `{"data.dir": value}`."""
    return dict(_leaves(tree))


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name in tree:
        try:
            value = tree[name]
        except config_dict.RequiredValueError:
            value = None
        if isinstance(value, dict | ml_collections.ConfigDict) and (value or name in SECTIONS):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _unknown(key: str, value: Any = None) -> str:
    if key in SECTIONS:
        names = ", ".join(name for name in KEYS if name.startswith(f"{key}."))
        given = f" and cannot be {value!r}" if value is not None else ""
        return f"config.{key} is a section{given}; set its keys: {names}"
    last = key.split(".")[-1]
    near = difflib.get_close_matches(key, KEYS, n=3, cutoff=0.7)
    near += [name for name in KEYS if name.split(".")[-1] == last and name not in near]
    hint = f"did you mean {' or '.join(near)}?" if near else "train.py --help lists the keys"
    return f"config.{key} is a key that nothing reads; {hint}"


def _place(config: ml_collections.ConfigDict, key: str) -> tuple[ml_collections.ConfigDict, str]:
    *sections, name = key.split(".")
    for section in sections:
        config = config[section]
    return config, name


def _put(section: ml_collections.ConfigDict, name: str, old: Any, new: Any) -> None:
    """Replace a value by its converted form if that differs; the value may be a reference."""
    if repr(old) == repr(new):
        return
    with section.ignore_type(), section.unlocked():
        section[name] = new
        if repr(section[name]) != repr(new):
            # Where ml_collections (1.1) replaces a list, it converts the new tuple to a list.
            del section[name]
            section[name] = new
