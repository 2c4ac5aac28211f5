"""Loads config files, which are small Python programs, and checks configs."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Mapping
from importlib import util
from typing import Any

import ml_collections
from ml_collections.config_dict import config_dict

from agcnn_jax.config.keys import KEYS, SECTIONS, check_values, flatten
from agcnn_jax.runtime.errors import UserError


def load_config(path: str, *arguments: str) -> ml_collections.ConfigDict:
    """Return the config that a file's `get_config(*arguments)` returns, checked and locked.

    Placeholders of ml_collections may be empty, since overrides are still to come.

    Raises:
        UserError: if the file fails or returns no config.
    """
    config = _run(path, *arguments)
    if type(config) is not ml_collections.ConfigDict:
        what = "nothing" if config is None else f"a {type(config).__name__}"
        raise UserError(
            f"--config {path}: get_config returns {what}; it must return an "
            "ml_collections.ConfigDict, as agcnn_jax/configs/common.py does"
        )
    for section in SECTIONS:
        # Nobody could override a frozen section.
        if isinstance(config.get(section), ml_collections.FrozenConfigDict):
            with config.ignore_type(), config.unlocked():
                config[section] = ml_collections.ConfigDict(config[section])
    check_config(config, f"--config {path}", overridable=True)
    return config.lock()


def _run(path: str, *arguments: str) -> Any:
    spec = util.spec_from_file_location("config_file", path)
    if spec is None or spec.loader is None:
        raise UserError(f"--config {path} is not a .py file; see agcnn_jax/configs/demo.py")
    module = util.module_from_spec(spec)
    # Dataclasses look up their module there.
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise UserError(
                f"--config {path} has no function get_config; see agcnn_jax/configs/demo.py"
            )
        return module.get_config(*arguments)
    except UserError:
        raise
    except Exception as error:
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if os.path.abspath(frame.filename) == os.path.abspath(path)
        ]
        line = f", line {lines[-1]}" if lines else ""
        outside = isinstance(error, ModuleNotFoundError) and error.name == "configs"
        raise UserError(
            f"--config {path} cannot be loaded{line}: {type(error).__name__}: {error}; "
            f"{'import from agcnn_jax.configs' if outside else 'correct it'}"
        ) from error


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
    unset = [key for key, value in values.items() if value is None] if overridable else []
    places = {key: _place(config, key) for key in unset}
    empty = [key for key, (part, name) in places.items() if part.get_type(name) is not type(None)]
    try:
        checked = check_values(values, empty)
    except UserError as error:
        raise UserError(f"{where}{error}") from None
    for key, value in checked.items():
        _put(*_place(config, key), values[key], value)


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
