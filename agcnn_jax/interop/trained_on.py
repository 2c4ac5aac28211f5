"""The images that imported weights were trained on, as far as the user or the source tells."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from agcnn_jax.data.patients import CHESTXRAY14, nih_name
from agcnn_jax.data.text import read_names
from agcnn_jax.interop.hub import PINNED
from agcnn_jax.interop.read import TensorFile
from agcnn_jax.run.lineage import (
    ANY_COLLECTION,
    NOTHING,
    UNKNOWN,
    Lineage,
    lineage_of_names,
)
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.paths import expanded_path

OPTION = "--trained_on"
# timm's names end in the data that the model saw last: timm/resnet50.a1_in1k.
_TIMM_IMAGENET = re.compile(r"timm/[\w.-]+_in\d+k")


class TrainedOn(NamedTuple):
    """The images that weights were trained on.

    Attributes:
        words: a description for messages.
        lineage: the known images.
    """

    words: str
    lineage: Lineage


KNOWN = {
    "imagenet": TrainedOn("ImageNet", NOTHING),
    "none": TrainedOn("nothing", NOTHING),
    "chestxray14": TrainedOn(
        "unknown images of ChestX-ray14",
        Lineage(unlisted=frozenset({CHESTXRAY14})),
    ),
}
NOT_KNOWN = TrainedOn("not known", UNKNOWN)


def parse_option(option: str | None) -> TrainedOn | None:
    """Parse `--trained_on`: a key of `KNOWN`, or a file that lists the images.

    Raises:
        UserError: if the value is neither.
    """
    return None if option is None else KNOWN.get(option) or _listed(option)


def determine(
    given: TrainedOn | None,
    recognised: str | None,
    sources: Sequence[str],
    files: Sequence[TensorFile],
) -> TrainedOn:
    """Determine the images that weights were trained on.

    Args:
        given: by the user, see `parse_option`.
        recognised: see `SourceFormat.trained_on`.
        sources: paths of the files, or names on the hub.
        files: the files of the weights.

    Raises:
        UserError: if the user describes one of our exports, which hold their lineage, or an
            export does not hold it.
    """
    exports = [file for file in files if file.metadata]
    if exports:
        if given is not None:
            raise UserError(
                f"{OPTION}: {exports[0].name} already says what it was trained on; leave the "
                f"option out"
            )
        return _of_exports(exports)
    if given is not None:
        return given
    if recognised is None and all(x in PINNED or _TIMM_IMAGENET.fullmatch(x) for x in sources):
        recognised = "imagenet"
    return KNOWN[recognised] if recognised is not None else NOT_KNOWN


def _of_exports(files: Sequence[TensorFile]) -> TrainedOn:
    images = NOTHING
    for file in files:
        try:
            images = images.joined(Lineage.from_json(file.metadata["lineage"]))
        except (KeyError, AttributeError, ValueError) as error:
            raise UserError(
                f"--weights {file.name} does not say what it was trained on; export it again with "
                f"data_prep/torch_weights.py"
            ) from error
    return TrainedOn(in_words(images), images)


def in_words(lineage: Lineage) -> str:
    """Describe a lineage briefly."""
    parts = [f"{len(images)} image(s) of {name}" for name, images in sorted(lineage.seen.items())]
    parts += [
        "unknown images" if name == ANY_COLLECTION else f"unlisted images of {name}"
        for name in sorted(lineage.unlisted)
    ]
    return " and ".join(parts) or "no radiographs"


def _listed(option: str) -> TrainedOn:
    path = expanded_path(option)
    if not path.is_file():
        raise UserError(
            f"{OPTION} {option}: no such file; give {', '.join(KNOWN)} or a file of image names"
        )
    names = read_names(path)
    if not names:
        raise UserError(f"{OPTION} {option}: names no image; give a file with one name per line")
    for name in names:
        if nih_name(name) is None:
            raise UserError(
                f"{OPTION} {option}: {name[:60]!r} is not an image name of ChestX-ray14, such as "
                f"00000013_005.png; give a file with one name per line"
            )
    lineage = lineage_of_names(filter(None, map(nih_name, names)))
    return TrainedOn(f"{in_words(lineage)}, listed in {path.name}", lineage)
