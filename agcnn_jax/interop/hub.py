"""Download of files from the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.storage import reported

FILE = "model.safetensors"
SCHEME = "hf://"
"""Prefix of the address of an exported model: `hf://OWNER/NAME[@REVISION]`."""

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_CHECKPOINT_SUFFIXES = (".safetensors", ".pth", ".pt", ".tar", ".pkl", ".bin", ".ckpt")


class Pin(NamedTuple):
    """A known good revision of a model: its commit, and the SHA-256 of its `model.safetensors`."""

    name: str
    revision: str
    sha256: str


IMAGENET = {
    "resnet50": Pin(
        "timm/resnet50.tv_in1k",
        "78f3ecfdb38e06d9b8397f662e7ab8fee96026fa",
        "5d061a3c593d795bfe682d9b152bafbcf550579873492def3515b46db1189888",
    ),
    "densenet121": Pin(
        "timm/densenet121.tv_in1k",
        "f0d0f2698a02cb133b09d48396db6e1e46fe9f3b",
        "c894c6d9caa317a8ca1942986dee7a16a86c77734a4d691d2abe05389cfef358",
    ),
}
"""torchvision's ImageNet weights (`IMAGENET1K_V1`) of each backbone, as timm publishes them."""

PINNED = {pin.name: pin for pin in IMAGENET.values()}


def is_hub_name(weights: str) -> bool:
    """Return True if `weights` names a model on the hub (`owner/model`), False for a file."""
    return (
        _NAME.fullmatch(weights) is not None
        and not weights.endswith(_CHECKPOINT_SUFFIXES)
        and not Path(weights).exists()
    )


def download(name: str, revision: str | None, folder: Path) -> tuple[Path, str]:
    """Download a model's safetensors file; return the file and its commit.

    Args:
        name: `owner/model`.
        revision: commit, tag or branch; the pinned one by default.
        folder: for all downloaded files; the caller removes it.

    Raises:
        UserError: if there is neither a pin nor a `revision`, or the file is unavailable.
    """
    if revision is None:
        if name not in PINNED:
            raise UserError(
                f"--weights {name}: no revision of this model is pinned; give --revision COMMIT, "
                f"or one of {', '.join(PINNED)}"
            )
        revision = PINNED[name].revision
    return fetch(
        name,
        FILE,
        revision,
        f"--weights {name}",
        folder,
        instead=f"the file: --weights {FILE}",
        missing="download another of its files and give that file instead of the name",
    )


def parse_address(address: str) -> tuple[str, str]:
    """Split `hf://OWNER/NAME[@REVISION]` into the name and the revision, by default `main`.

    Raises:
        UserError: if it is no such address.
    """
    name, _, revision = address.removeprefix(SCHEME).partition("@")
    if not _NAME.fullmatch(name) or ".." in name or (not revision and address.endswith("@")):
        raise UserError(f"{address} is no model on the hub; give hf://OWNER/NAME[@REVISION]")
    return name, revision or "main"


def fetch(
    name: str,
    file: str,
    revision: str,
    option: str,
    folder: Path | None = None,
    *,
    instead: str,
    missing: str,
) -> tuple[Path, str]:
    """Download one file of a model; return it and its commit.

    Args:
        name: `owner/model`.
        file: its name there.
        revision: commit, tag or branch.
        option: what asked for it, for messages.
        folder: for all downloaded files; by default the hub's own cache.
        instead: what to give after a download by hand.
        missing: what to do if there is no such file.

    Raises:
        UserError: if the file is unavailable, or cannot be written.
    """
    import huggingface_hub  # takes a second
    from huggingface_hub import errors

    try:
        path = huggingface_hub.hf_hub_download(name, file, revision=revision, cache_dir=folder)
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"{option}: the hub has no such model; check the name, or log in if it is private"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{option}: {name} has no such revision as {revision}") from error
    except Exception as error:  # the hub's client also raises its transport's errors
        # The subclass means that the hub does not answer.
        answered = not isinstance(error, errors.LocalEntryNotFoundError)
        if isinstance(error, errors.EntryNotFoundError) and answered:
            raise UserError(f"{option}: it has no file {file}; {missing}") from error
        if isinstance(error, OSError) and error.filename is not None:
            remedy = None if folder else "name another folder for downloads with HF_HOME"
            with reported(error.filename, "written", remedy):
                raise
        reason = (str(error).strip() or type(error).__name__).split("\n")[0]
        raise UserError(
            f"{option}: the hub cannot be reached ({reason}); download it elsewhere from "
            f"https://huggingface.co/{name}/resolve/{revision}/{file} and give {instead}"
        ) from error
    # .../models--owner--model/snapshots/<commit>/model.safetensors
    return Path(path), Path(path).parent.name


def check_pin(name: str, commit: str, sha256: str) -> None:
    """Raise `UserError` if the file of a pinned revision has another SHA-256 than pinned."""
    pin = PINNED.get(name)
    if pin is not None and commit == pin.revision and sha256 != pin.sha256:
        raise UserError(
            f"--weights {name}: the downloaded file's SHA-256 is {sha256} instead of {pin.sha256}; "
            f"it was damaged or changed in transit, so try again"
        )
