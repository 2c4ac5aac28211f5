"""The state of the output folder: empty, unfinished or complete."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from agcnn_jax.data.collection import FILE
from agcnn_jax.runtime import errors

UNFINISHED = "unfinished"


def _read_json(path: Path) -> Any:
    """Return the content of a JSON file, or None if it is damaged or missing."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, IsADirectoryError, ValueError):
        return None


def is_complete(out_dir: Path, options: dict) -> bool:
    """Return True if `out_dir` holds the phantoms of these options.

    Raises:
        UserError: it holds other phantoms.
    """
    path = out_dir / FILE
    if not path.exists():
        return False
    content = _read_json(path)
    content = content if isinstance(content, dict) and "images" in content else {}
    different = [key for key, value in options.items() if content.get(key) != value]
    if different:
        raise errors.UserError(
            f"{out_dir} holds other phantoms (different {', '.join(different)}); "
            "choose another --out_dir or remove it"
        )
    shutil.rmtree(out_dir / UNFINISHED, ignore_errors=True)
    return True


def _holds_other_files(out_dir: Path) -> bool:
    """Return True if `out_dir` holds anything that this program did not write before it stopped."""
    names = {path.name for path in out_dir.iterdir()} if out_dir.exists() else set()
    unfinished = (out_dir / UNFINISHED).glob("*")
    return bool(names - {UNFINISHED}) or any(path.suffix != ".part" for path in unfinished)


def open_output(out_dir: Path, options: dict) -> Path:
    """Create `out_dir`, or open it to continue an unfinished run; return the folder of its state.

    Raises:
        UserError: it holds other files, or an unfinished run with other options.
    """
    work = out_dir / UNFINISHED
    note = work / "options.json"
    if out_dir.exists() and not out_dir.is_dir():
        raise errors.UserError(f"{out_dir} is a file; choose another --out_dir")
    if note.exists():
        if _read_json(note) != options:
            raise errors.UserError(
                f"{out_dir} holds unfinished phantoms of other options; choose another --out_dir "
                "or remove it"
            )
    elif _holds_other_files(out_dir):
        raise errors.UserError(
            f"{out_dir} holds other files; choose another --out_dir or remove it"
        )
    work.mkdir(parents=True, exist_ok=True)
    note.with_suffix(".part").write_text(json.dumps(options))
    os.replace(note.with_suffix(".part"), note)
    (out_dir / "images").mkdir(exist_ok=True)
    return work
