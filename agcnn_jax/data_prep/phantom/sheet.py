"""A contact sheet with one phantom of each finding."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import cv2
import numpy as np

from agcnn_jax.data_prep.phantom import cohort
from agcnn_jax.data_prep.phantom.lesions import FINDINGS
from agcnn_jax.data_prep.phantom.render import PROVENANCE, render
from agcnn_jax.runtime import errors


def contact_sheet(path: Path, seed: int, size: int, columns: int = 5) -> None:
    """Save a PNG with a normal chest and the 14 findings, each with its name and boxes.

    Raises:
        UserError: the file cannot be written.
    """
    names = [cohort.NO_FINDING, *FINDINGS]
    tiles = []
    for i, name in enumerate(names):
        person = cohort.patient(seed, 501 + i, "real")
        findings = () if name == cohort.NO_FINDING else (name,)
        film = cohort.Film(0, findings, person.films[0].age, portable=i % 5 == 3)
        image, lesions = render(seed, person, film, size, label_noise=False)
        for _, boxes in lesions:
            for x0, y0, x1, y1 in boxes.tolist():
                cv2.rectangle(image, (x0, y0), (x1 - 1, y1 - 1), 255, 1)
        tiles.append(np.vstack([image, _caption(name.replace("_", " "), size)]))
    rows = [np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    rows.append(_caption(f"{PROVENANCE}; a box shows what a finding changes", size * columns))
    _, png = cv2.imencode(".png", np.vstack(rows), [cv2.IMWRITE_PNG_COMPRESSION, 9])
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(png.tobytes())
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise errors.UserError(
            f"--contact_sheet {path}: {error.strerror}; name a .png file in an existing folder "
            "on a disk with free space"
        ) from None


def _caption(text: str, width: int) -> np.ndarray:
    """Return white text on a black strip, uint8 [18, width]."""
    strip = np.zeros((18, width), np.uint8)
    cv2.putText(strip, text, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, 255, 1, cv2.LINE_AA)
    return strip
