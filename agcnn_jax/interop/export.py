"""A trained run's weights as safetensors, under torchvision's names."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from agcnn_jax.interop.convert import head_state, torch_state
from agcnn_jax.interop.read import METADATA_KEY
from agcnn_jax.models.agcnn import BRANCHES, Variables
from agcnn_jax.models.registry import make_backbone
from agcnn_jax.run import lineage, saved_config
from agcnn_jax.run.stage_results import finished_variables
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.storage import checkpoint_place

ALL = "all"
CHOICES = (*BRANCHES, ALL)


def export_run(workdir: str, branch: str, out: Path) -> dict[str, Any]:
    """Write the best weights of a run's finished stages; the data set is not needed.

    Args:
        workdir: of the run.
        branch: one branch, whose names are then torchvision's own (the fusion branch's `fc.weight`
            and `fc.bias`); or `all`, which puts `global.`, `local.` and `fusion.` before them.
        out: a new .safetensors file.

    Returns:
        What the file's metadata say: `backbone`, `branch`, `labels`, `pooling`, `mean`, `std`,
        `input_size`, `statistic`, `tau`, `lineage`.

    Raises:
        UserError: if nothing is trained, the branch is not, or `out` is in the way.
    """
    try:
        from safetensors.numpy import save
    except ImportError as error:
        raise UserError(
            "--export needs safetensors; install it: pip install safetensors"
        ) from error
    if out.suffix != ".safetensors":
        raise UserError(f"--out {out}: an export is a .safetensors file; give it that ending")
    if out.exists():
        raise UserError(f"--out {out} exists; choose another name or delete it")
    directory = checkpoint_place(workdir)
    config = saved_config.read_config(directory)
    if config is None:
        raise UserError(f"--export {workdir}: nothing is trained there; give a run's --workdir")
    variables, saved = finished_variables(directory, config.strategy, {"backbone": config.backbone})
    seen, _ = lineage.kept(directory)
    missing = [name for name in _wanted(branch) if name not in variables["params"]]
    if missing:
        raise UserError(
            f"--export {workdir}: its {' and '.join(missing)} branch is not trained yet; give "
            f"--branch {'|'.join(variables['params'])}, or train on"
        )
    about = {
        "backbone": config.backbone,
        "branch": branch,
        "labels": list(saved["labels"]),
        "pooling": config.pooling,
        "mean": list(config.mean),
        "std": list(config.std),
        "input_size": config.input_size,
        "statistic": config.attention.statistic,
        "tau": config.attention.tau,
        "lineage": seen.to_json(),
    }
    single = jax.tree.map(lambda leaf: leaf.astype(np.float32), variables)
    state = state_of(single, branch, config.backbone, len(config.mean))
    _write(out, save(state, metadata={"format": "pt", METADATA_KEY: json.dumps(about)}))
    return about


def state_of(
    variables: Variables, branch: str, backbone_name: str, channels: int
) -> dict[str, np.ndarray]:
    """The state dict of one branch, or of the whole AG-CNN.

    Args:
        variables: `{"params": {branch: ...}, "batch_stats": {branch: ...}}`.
        branch: a branch or `all`; see `export_run`.
        backbone_name: a key of `BACKBONES`.
        channels: number of input channels.
    """
    backbone = make_backbone(backbone_name)
    state: dict[str, np.ndarray] = {}
    for name in _wanted(branch):
        params = variables["params"][name]
        if name == "fusion":
            tensors = head_state(params["head"], "fc")
        else:
            tensors = torch_state(params, variables["batch_stats"][name], backbone, channels)
        prefix = f"{name}." if branch == ALL else ""
        state.update({prefix + key: array for key, array in tensors.items()})
    return state


def _wanted(branch: str) -> tuple[str, ...]:
    return BRANCHES if branch == ALL else (branch,)


def _write(out: Path, content: bytes) -> None:
    temporary = out.with_name(f".{out.name}.incomplete")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, out)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written ({error.strerror})") from error
    finally:
        temporary.unlink(missing_ok=True)
