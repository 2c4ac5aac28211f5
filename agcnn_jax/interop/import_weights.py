"""From PyTorch checkpoint files to converted weights on disk."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agcnn_jax.interop import hub, trained_on, weights
from agcnn_jax.interop.convert import convert_branch, convert_fusion
from agcnn_jax.interop.read import TensorFile, read_tensor_file
from agcnn_jax.interop.source_format import SourceFormat, recognise_source
from agcnn_jax.models.agcnn import BRANCHES
from agcnn_jax.models.registry import make_backbone
from agcnn_jax.runtime.errors import UserError


def import_weights(
    sources: Sequence[str],
    backbone_name: str,
    out: Path,
    revision: str | None = None,
    seen: str | None = None,
) -> dict[str, Any]:
    """Convert one network, or the three files of an AG-CNN, to a new folder.

    Everything is first written beside `out` and renamed when it is whole.

    Args:
        sources: a file or a name on the hub; or three files, of the global, the local and the
            fusion branch.
        backbone_name: a key of `BACKBONES`.
        out: folder to write; must not exist or be empty.
        revision: of a name on the hub; by default the pinned one.
        seen: what the weights have been trained on, as `trained_on.given` reads it; by default
            as far as the files tell.

    Returns:
        What `weights.json` says; see `weights.describe`.

    Raises:
        UserError: if a source cannot be had or is of something else; nothing is left behind then.
    """
    if len(sources) not in (1, len(BRANCHES)):
        raise UserError(
            f"--weights has {len(sources)} entries; give one, or three for an AG-CNN's global, "
            f"local and fusion branch"
        )
    if revision is not None and not any(hub.is_hub_name(source) for source in sources):
        raise UserError(f"--revision {revision} is of models on the hub; --weights is a file")
    said = trained_on.given(seen)
    weights.free_directory(out)
    scratch = out.parent / f".{out.name}.incomplete"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
        scratch.mkdir()
        files, origins = [], []
        for source in sources:
            file, name = _fetch(source, revision, scratch / "download")
            files.append(file)
            origins.append(name)
        variables, about, origin = _convert(files, backbone_name)
        known = trained_on.settled(said, origin.trained_on, sources, files)
        about = {
            "source": " ".join(origins),
            **about,
            "trained_on": known.words,
            "lineage": known.lineage.to_json(),
        }
        weights.save_weights(scratch / "weights", variables, about)
        if out.exists():
            out.rmdir()
        (scratch / "weights").rename(out)
    except OSError as error:
        raise UserError(
            f"--out {out} cannot be written ({error.strerror or error}); choose another folder"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return about


def report(about: dict[str, Any], out: Path) -> str:
    """Say in a few lines what was brought in, every tensor that was left out included."""
    classes = about["classes"]
    named = f" ({', '.join(classes)})" if classes else ""
    lines = [
        f"{about['source']}: {about['kind']}, {about['backbone']}, {about['channels']} input "
        f"channel(s)",
        *(f"sha256 {file['sha256']}  {file['name']}" for file in about["files"]),
        f"classes: {about['class_count']}{named}",
        f"pooling: {about['pooling']}; mean {_plain(about['mean'])}, std {_plain(about['std'])}",
        f"trained on: {about['trained_on']}",
        f"tensors: {about['used']} used, {len(about['left_out'])} left out",
        *(f"  left out: {key} ({reason})" for key, reason in _grouped(about["left_out"])),
        f"written to {out}; train from it with --config.init={out}",
    ]
    return "\n".join(lines)


def _fetch(source: str, revision: str | None, folder: Path) -> tuple[TensorFile, str]:
    if not hub.is_hub_name(source):
        return read_tensor_file(Path(source)), source
    path, commit = hub.download(source, revision, folder)
    file = read_tensor_file(path)
    hub.check_pin(source, commit, file.sha256)
    shutil.rmtree(folder)
    return file, f"{source}@{commit}"


def _convert(
    files: Sequence[TensorFile], backbone_name: str
) -> tuple[dict[str, Any], dict[str, Any], SourceFormat]:
    backbone = make_backbone(backbone_name)
    params: dict[str, Any] = {}
    batch_stats: dict[str, Any] = {}
    used, left_out = 0, {}
    branches = BRANCHES[: 1 if len(files) == 1 else 2]
    origin: SourceFormat | None = None
    for branch, file in zip(branches, files, strict=False):
        converted = convert_branch(file, backbone, backbone_name)
        found = recognise_source(file, converted)
        if origin is not None and found[1:] != origin[1:]:
            raise UserError(
                f"--weights {file.name}: its classes or its input differ from those of "
                f"{files[0].name}; give the files of one AG-CNN"
            )
        origin = found
        params[branch], batch_stats[branch] = converted.params, converted.batch_stats
        used += converted.used
        prefix = "" if len(files) == 1 else f"{file.name}: "
        left_out.update({prefix + key: reason for key, reason in converted.left_out.items()})
    assert origin is not None
    if len(files) > 1:
        features = converted.params["head"]["kernel"].shape[0]
        params["fusion"] = convert_fusion(files[-1], features, converted.classes)
        used += len(params["fusion"]["head"])
    about = {
        "kind": origin.kind if len(files) == 1 else f"AG-CNN, {origin.kind}",
        "backbone": backbone_name,
        "channels": converted.channels,
        "branches": list(params),
        "files": [{"name": file.name, "sha256": file.sha256} for file in files],
        "class_count": converted.classes,
        "classes": list(origin.classes) if origin.classes else None,
        "pooling": origin.pooling,
        "mean": list(origin.mean),
        "std": list(origin.std),
        "used": used,
        "left_out": left_out,
    }
    return {"params": params, "batch_stats": batch_stats}, about, origin


def _plain(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _grouped(left_out: dict[str, str]) -> list[tuple[str, str]]:
    """Join the names that are left out for the same reason."""
    names: dict[str, list[str]] = {}
    for key, reason in left_out.items():
        names.setdefault(reason, []).append(key)
    return [(", ".join(keys), reason) for reason, keys in names.items()]
