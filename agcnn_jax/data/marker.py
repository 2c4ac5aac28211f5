"""The file beside phantoms that says that they are synthetic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from agcnn_jax.runtime.errors import UserError

MARKER = "phantoms.json"


def read_marker(raw_dir: Path) -> dict[str, Any]:
    """Return the content of the phantoms' marker, or {} for real images.

    The marker may be in `raw_dir` or in the folder above it, as the tables may, so that phantoms
    are never taken for real images.

    Raises:
        UserError: the marker is not JSON or lacks "provenance", "collection" or "box_size".
    """
    for folder in (raw_dir, raw_dir.absolute().parent):
        path = folder / MARKER
        if path.is_file():
            try:
                marker = json.loads(path.read_text("utf-8"))
                texts = (marker["provenance"], marker["collection"])
                if all(isinstance(text, str) for text in texts) and int(marker["box_size"]) > 0:
                    return dict(marker)
            except (ValueError, KeyError, TypeError, OSError):
                pass
            raise UserError(f"{path}: damaged; make the phantoms again with data_prep/phantoms.py")
    return {}
