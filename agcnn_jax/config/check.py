"""Checks configs against the table of keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_collections
from ml_collections.config_dict import config_dict

from agcnn_jax.config.keys import KEYS, check_channels, check_value, flatten, unknown_key
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
    try:
        values = flatten(config.to_dict())
    except config_dict.RequiredValueError as error:
        raise UserError(
            f"{where}a required_placeholder has no value; use placeholder instead, which the "
            f"command line can fill"
        ) from error
    for key, value in values.items():
        if key not in KEYS:
            raise UserError(f"{where}{unknown_key(key, value)}")
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
    check_channels(config.mean, config.std, where)


def check_name(key: str) -> None:
    """Raise `UserError` if there is no such key, and suggest similar ones."""
    if key not in KEYS:
        raise UserError(unknown_key(key))


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
