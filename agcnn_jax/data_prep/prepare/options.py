"""Options that both commands for films have."""

from __future__ import annotations

from typing import Any

from agcnn_jax.runtime.errors import UserError


def check_options(options: Any, *numbers: str) -> None:
    """Raise `UserError` unless the `numbers` are 1 or more, where given, and max_bad a share."""
    for name in numbers:
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} {value}: must be 1 or more")
    if not 0 <= options.max_bad <= 1:
        raise UserError(f"--max_bad {options.max_bad:g}: must be a share between 0 and 1")
