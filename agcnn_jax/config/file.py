"""Loads config files, which are small Python programs."""

from __future__ import annotations

import os
import sys
import traceback
from importlib import util
from typing import Any

import ml_collections

from agcnn_jax.config.check import check_config
from agcnn_jax.config.keys import SECTIONS
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
            "ml_collections.ConfigDict, as configs/common.py does"
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
        raise UserError(f"--config {path} is not a .py file; configs/ holds some, such as demo.py")
    module = util.module_from_spec(spec)
    # Dataclasses look up their module there.
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise UserError(f"--config {path} has no function get_config; see configs/demo.py")
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
        raise UserError(
            f"--config {path} cannot be loaded{line}: {type(error).__name__}: {error}; correct it"
        ) from error
