"""A config as plain Python values, for programs that only use a trained model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agcnn_jax.config.keys import KEYS, SECTIONS, check_value
from agcnn_jax.runtime.errors import UserError


def plain_config(saved: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Check a config that was read from JSON, and fill in the defaults of missing keys.

    A key that a later version added has its default where an earlier one trained.

    Args:
        saved: nested, such as the content of a run's `config.json`.
        source: where it comes from, for messages.

    Returns:
        All keys of the table, nested, in the form that programs read.

    Raises:
        UserError: for an unknown key or an impossible value.
    """
    values = dict(_leaves(saved))
    if unknown := sorted(values.keys() - KEYS.keys()):
        raise UserError(
            f"{source}: config.{unknown[0]} is a key that this version does not know; use the "
            f"version of agcnn-jax that wrote it, or a newer one"
        )
    config: dict[str, Any] = {section: {} for section in SECTIONS}
    for key, row in KEYS.items():
        try:
            value = check_value(key, values.get(key, row.default))
        except UserError as error:
            raise UserError(f"{source} is damaged: {error}") from None
        section, _, name = key.rpartition(".")
        (config[section] if section else config)[name] = value
    return config


def _leaves(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if name in SECTIONS and isinstance(value, dict):
            yield from ((f"{name}.{key}", inner) for key, inner in value.items())
        else:
            yield name, value
