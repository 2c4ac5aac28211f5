"""The output folder: empty, begun by the same options, or complete."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from agcnn_jax.data.marker import MARKER
from agcnn_jax.runtime import errors

UNFINISHED = "unfinished"


def read_json(path: Path) -> Any:
    """Return what a JSON file of ours holds, None if it is damaged or no file."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError:
        return None


def is_complete(out_dir: Path, options: dict) -> bool:
    """Whether these very phantoms are in `out_dir`; an error if other finished ones are."""
    marker = out_dir / MARKER
    if not marker.exists():
        return False
    there = read_json(marker)
    if not isinstance(there, dict) or not isinstance(there.get("images"), int):
        raise errors.UserError(
            f"{marker}: damaged; remove {out_dir} and run again, or choose another --out_dir"
        )
    different = [key for key, value in options.items() if there.get(key) != value]
    if different:
        raise errors.UserError(
            f"{out_dir} holds other phantoms (different {', '.join(different)}); "
            "choose another --out_dir or remove it"
        )
    shutil.rmtree(out_dir / UNFINISHED, ignore_errors=True)
    return True


def open_output(out_dir: Path, options: dict) -> Path:
    """Make `out_dir` ours, or take it up where a run with the same options left it."""
    work = out_dir / UNFINISHED
    note = work / "options.json"
    if out_dir.exists() and not out_dir.is_dir():
        raise errors.UserError(f"{out_dir} is a file; choose another --out_dir")
    if note.exists():
        begun = read_json(note)
        if not isinstance(begun, dict):
            raise errors.UserError(
                f"{note}: damaged; remove {out_dir} and run again, or choose another --out_dir"
            )
        if begun != options:
            raise errors.UserError(
                f"{out_dir} holds phantoms begun with other options; choose another --out_dir or "
                "remove it"
            )
    elif out_dir.exists() and not _is_free(out_dir):
        raise errors.UserError(
            f"{out_dir} holds other files; choose another --out_dir or remove it"
        )
    work.mkdir(parents=True, exist_ok=True)
    (out_dir / "images").mkdir(exist_ok=True)
    note.with_suffix(".part").write_text(json.dumps(options))
    os.replace(note.with_suffix(".part"), note)
    return work


def _is_free(out_dir: Path) -> bool:
    """Whether nothing is in `out_dir`, or what a run leaves that was killed before its note."""
    there = {path.name: path for path in out_dir.iterdir()}
    if not there:
        return True
    if UNFINISHED not in there or there.keys() - {UNFINISHED, "images"}:
        return False
    if not all(path.is_dir() for path in there.values()):
        return False
    images = there.get("images")
    return (images is None or not any(images.iterdir())) and all(
        path.suffix == ".part" for path in there[UNFINISHED].iterdir()
    )
