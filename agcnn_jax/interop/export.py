"""Export of a trained run's weights to safetensors, under torchvision's names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath
from safetensors.numpy import save

from agcnn_jax.config.saved import read_config
from agcnn_jax.interop.convert import head_state, torch_state
from agcnn_jax.interop.read import METADATA_KEY
from agcnn_jax.models.agcnn import BRANCHES, Variables
from agcnn_jax.models.registry import make_backbone
from agcnn_jax.run import lineage
from agcnn_jax.run.stage_results import finished_variables
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.storage import checkpoint_place, reported, write_bytes

ALL = "all"


def export_run(workdir: str, branch: str, out: Path) -> dict[str, Any]:
    """Write the best weights of a run's finished stages, without its data set.

    Args:
        workdir: of the run.
        branch: one branch, under torchvision's names (`fc.weight` and `fc.bias` for the fusion
            branch); or `all`, which prefixes them with `global.`, `local.` and `fusion.`.
        out: a new .safetensors file.

    Returns:
        The file's metadata: `backbone`, `branch`, `labels`, `pooling`, `mean`, `std`,
        `input_size`, `local_input`, `statistic`, `tau`, `crop_from`, `lineage`.

    Raises:
        UserError: if nothing is trained, the branch is not trained, or `out` exists or cannot be
            written.
    """
    if out.suffix != ".safetensors":
        raise UserError(f"--out {out}: an export is a .safetensors file; give it that suffix")
    if out.exists():
        raise UserError(f"--out {out} exists; choose another name or delete it")
    directory = checkpoint_place(workdir)
    config = read_config(directory)
    if config is None:
        raise UserError(f"{workdir}: nothing is trained there; give a run's workdir")
    variables, saved = finished_variables(directory, config.strategy, {"backbone": config.backbone})
    images, _ = lineage.read(directory)
    missing = [name for name in _branches(branch) if name not in variables["params"]]
    if missing:
        raise UserError(
            f"{workdir}: its {' and '.join(missing)} branch is not trained yet; give "
            f"--branch {'|'.join(variables['params'])}, or continue training"
        )
    about = {
        "backbone": config.backbone,
        "branch": branch,
        "labels": list(saved["labels"]),
        **{key: config[key] for key in ("pooling", "mean", "std", "input_size", "local_input")},
        **{key: config.attention[key] for key in ("statistic", "tau", "crop_from")},
        "lineage": images.to_json(),
    }
    single = jax.tree.map(lambda leaf: leaf.astype(np.float32), variables)
    state = state_of(single, branch, config.backbone, len(config.mean))
    content = save(state, metadata={"format": "pt", METADATA_KEY: json.dumps(about)})
    with reported(out, "written"):
        write_bytes(epath.Path(out), content)
    return about


def state_of(
    variables: Variables, branch: str, backbone_name: str, channels: int
) -> dict[str, np.ndarray]:
    """Return the state dict of one branch, or of the whole AG-CNN; see `export_run`.

    `backbone_name` is a key of `BACKBONES`, `channels` the number of input channels.
    """
    backbone = make_backbone(backbone_name)
    state: dict[str, np.ndarray] = {}
    for name in _branches(branch):
        params = variables["params"][name]
        if name == "fusion":
            tensors = head_state(params["head"], "fc")
        else:
            tensors = torch_state(params, variables["batch_stats"][name], backbone, channels)
        prefix = f"{name}." if branch == ALL else ""
        state.update({prefix + key: array for key, array in tensors.items()})
    return state


def _branches(branch: str) -> tuple[str, ...]:
    return BRANCHES if branch == ALL else (branch,)
