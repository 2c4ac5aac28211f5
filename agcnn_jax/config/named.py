"""Config files by their names: those of the package, and those of paths."""

from __future__ import annotations

import os
from pathlib import Path

import agcnn_jax
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.paths import expand

FOLDER = Path(agcnn_jax.__file__).parent / "configs"


def config_names() -> list[str]:
    """List the names of the configs that the package has."""
    return sorted(path.stem for path in FOLDER.glob("[!_]*.py"))


def config_path(given: str) -> str:
    """Return the path of a config.

    Args:
        given: with `.py` at the end or a separator, a path; otherwise a name, such as resnet.

    Raises:
        UserError: if there is no such file or name.
    """
    path, names = expand(given), config_names()
    if given in names:
        return str(FOLDER / f"{given}.py")
    if os.sep not in path and not path.endswith(".py"):
        raise UserError(
            f"--config {given}: there is no config of that name; use {', '.join(names[:-1])} or "
            f"{names[-1]}, or the path of a file with .py at its end"
        )
    if not os.path.isfile(path):
        raise UserError(
            f"--config {path}: no such file; give another path, or one of the names "
            f"{', '.join(names)}"
        )
    return path
