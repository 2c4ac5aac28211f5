"""The collection of raw images, as `dataset.json` beside them describes it."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

from agcnn_jax.data.patients import CHESTXRAY14
from agcnn_jax.runtime.errors import UserError

FILE = "dataset.json"

SYNTHETIC = "SYNTHETIC IMAGES"
"""What tables and figures of a synthetic collection say."""


@dataclasses.dataclass(frozen=True)
class Collection:
    """A set of images in which a file name means one image.

    Attributes:
        name: such as `ChestX-ray14`, or one cohort of phantoms.
        provenance: where the images come from, in words.
        box_size: side of the images that annotated boxes refer to, in pixels.
        synthetic: a program made the images, so that numbers from them say nothing about patients.
    """

    name: str
    provenance: str
    box_size: int
    synthetic: bool


NIH = Collection(CHESTXRAY14, CHESTXRAY14, box_size=1024, synthetic=False)
"""Images without a `dataset.json`: NIH's download has none."""


# Patterns of collections' names -> the collection that their films were taken from. < and > stand
# for the ends of a word, of which digits and underscores are no part.
_PARTS = {
    r"<rsna>|<siim>|<nih>|<chest.?x.?det>|<majkowska>|<nabulsi>": CHESTXRAY14,
    r"<chest.?x.?ray.?(8|14)(?!\d)": CHESTXRAY14,
    r"<chexpert|<chexlocalize>": "CheXpert",
    r"<mimic>|<mimic.?cxr|<chest.?imagenome>": "MIMIC-CXR",
}


def part_of(collection: str) -> str:
    """Return the collection that this one's films were taken from, or the collection itself.

    The films of the RSNA's and the SIIM's challenges, of ChestX-Det10, and those that radiologists
    labelled again for Majkowska et al. and Nabulsi et al., are ChestX-ray14's. Only names of
    collections of radiographs say so: those of phantoms may hold the NIH's for its prevalence.
    """
    letter = r"[^\W\d_]"
    for names, parent in _PARTS.items():
        pattern = names.replace("<", f"(?<!{letter})").replace(">", f"(?!{letter})")
        if re.search(pattern, collection, re.IGNORECASE):
            return parent
    return collection


def read_collection(raw_dir: Path) -> Collection:
    """Read the `dataset.json` in the folder of raw images or, as for the tables, in the one above.

    Raises:
        UserError: it is not JSON, or an entry is missing or impossible.
    """
    for folder in (raw_dir, raw_dir.absolute().parent):
        if (folder / FILE).is_file() and (collection := _parse(folder / FILE)):
            return collection
        # Phantoms as they were drawn before this file had its name would pass for NIH's images.
        if (folder / "phantoms.json").is_file():
            raise UserError(
                f"{folder / 'phantoms.json'}: phantoms of another version of "
                "data_prep/phantoms.py; draw them again"
            )
    return NIH


def _parse(path: Path) -> Collection | None:
    """Read a `dataset.json`; None for another program's file of that name, without these keys."""
    keys = ("collection", "provenance", "box_size", "synthetic")
    try:
        entries = json.loads(path.read_text("utf-8"))
        if not isinstance(entries, dict) or not set(keys) & set(entries):
            return None
        values = [entries[key] for key in keys]
        if list(map(type, values)) != [str, str, int, bool] or values[2] < 1:
            raise ValueError
    except (ValueError, KeyError, TypeError, OSError):
        raise UserError(
            f"{path}: must have collection and provenance (texts), box_size (a whole number of "
            "pixels) and synthetic (true or false); correct it, or draw phantoms again"
        ) from None
    return Collection(*values)
