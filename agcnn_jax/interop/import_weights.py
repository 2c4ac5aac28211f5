"""Conversion of PyTorch checkpoint files to weights on disk."""

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
from agcnn_jax.runtime.storage import new_folder


def import_weights(
    sources: Sequence[str],
    backbone_name: str,
    out: Path,
    revision: str | None = None,
    seen: str | None = None,
    classes: str | None = None,
) -> dict[str, Any]:
    """Convert one network, or the three files of an AG-CNN, to a new folder.

    Args:
        sources: a file or a name on the hub; or three files, for the global, the local and the
            fusion branch.
        backbone_name: a key of `BACKBONES`.
        out: folder to write; must be missing or empty.
        revision: of a name on the hub; the pinned one by default.
        seen: the value of `--trained_on`, see `trained_on.parse_option`; by default the files
            tell, as far as they can.
        classes: names of the outputs in their order, with commas between them; by default those of
            the project that published the files, see `recognise_source`.

    Returns:
        The content of `weights.json`; see `weights.describe`.

    Raises:
        UserError: if a source is unavailable or holds other weights; leaves nothing behind.
    """
    if len(sources) not in (1, len(BRANCHES)):
        raise UserError(
            f"--weights has {len(sources)} entries; give one, or three for an AG-CNN's global, "
            f"local and fusion branch"
        )
    if revision is not None and not any(hub.is_hub_name(source) for source in sources):
        raise UserError(f"--revision {revision} is for models on the hub; --weights is a file")
    user_lineage = trained_on.parse_option(seen)
    with new_folder(out) as folder:
        pairs = [_fetch(source, revision, folder / "download") for source in sources]
        files = [file for file, _ in pairs]
        variables, about, source_format = _convert(files, backbone_name)
        if classes is not None:
            about["classes"] = parse_classes(classes, about["class_count"])
        seen_images = trained_on.determine(user_lineage, source_format.trained_on, sources, files)
        about = {
            "source": " ".join(name for _, name in pairs),
            **about,
            "trained_on": seen_images.words,
            "lineage": seen_images.lineage.to_json(),
        }
        weights.save_weights(folder, variables, about)
    return about


def parse_classes(option: str, outputs: int) -> list[str]:
    """Parse `--classes`; `UserError` unless it has a name of its own for each output."""
    names = [name.strip() for name in option.split(",")]
    if len(names) != outputs:
        raise UserError(
            f"--classes has {len(names)} names, but the weights have {outputs} outputs; give one "
            f"name for each, in their order"
        )
    if not all(names) or len(set(names)) < len(names):
        raise UserError(f"--classes {option}: give each output a name of its own")
    return names


def summary(about: dict[str, Any], out: Path) -> str:
    """Summarise the imported weights and list every tensor that was left out."""
    names = [name or "not trained" for name in about["classes"] or ()]
    classes = f" ({', '.join(names)})" if names else ""
    mean, std = (" ".join(f"{value:g}" for value in about[key]) for key in ("mean", "std"))
    lines = [
        f"{about['source']}: {about['kind']}, {about['backbone']}, {about['channels']} input "
        f"channel(s)",
        *(f"sha256 {file['sha256']}  {file['name']}" for file in about["files"]),
        f"classes: {about['class_count']}{classes}",
        f"pooling: {about['pooling']}; mean {mean}, std {std}",
        f"trained on: {about['trained_on']}",
        f"tensors: {about['used']} used, {len(about['left_out'])} left out",
        *(f"  left out: {key} ({reason})" for key, reason in _grouped(about["left_out"])),
        f"written to {out}; train from it with --config.init={out}, or score it with eval.py "
        f"--weights {out}",
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
    source_format: SourceFormat | None = None
    for branch, file in zip(branches, files, strict=False):
        converted = convert_branch(file, backbone, backbone_name)
        its_format = recognise_source(file, converted)
        if source_format is not None and its_format[1:] != source_format[1:]:
            raise UserError(
                f"--weights {file.name}: its classes or its input differ from {files[0].name}'s; "
                f"give the files of one AG-CNN"
            )
        source_format = its_format
        params[branch], batch_stats[branch] = converted.params, converted.batch_stats
        used += converted.used
        prefix = "" if len(files) == 1 else f"{file.name}: "
        left_out.update({prefix + key: reason for key, reason in converted.left_out.items()})
    assert source_format is not None
    if len(files) > 1:
        features = converted.params["head"]["kernel"].shape[0]
        params["fusion"] = convert_fusion(files[-1], features, converted.classes)
        used += len(params["fusion"]["head"])
    about = {
        "kind": source_format.kind if len(files) == 1 else f"AG-CNN, {source_format.kind}",
        "backbone": backbone_name,
        "channels": converted.channels,
        "branches": list(params),
        "files": [{"name": file.name, "sha256": file.sha256} for file in files],
        "class_count": converted.classes,
        "classes": list(source_format.classes) if source_format.classes else None,
        "pooling": source_format.pooling,
        "mean": list(source_format.mean),
        "std": list(source_format.std),
        "used": used,
        "left_out": left_out,
    }
    return {"params": params, "batch_stats": batch_stats}, about, source_format


def _grouped(left_out: dict[str, str]) -> list[tuple[str, str]]:
    """Join the names of tensors that are left out for the same reason."""
    names: dict[str, list[str]] = {}
    for key, reason in left_out.items():
        names.setdefault(reason, []).append(key)
    return [(", ".join(keys), reason) for reason, keys in names.items()]
