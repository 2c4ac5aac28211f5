"""The weights that training starts from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from agcnn_jax.errors import UserError
from agcnn_jax.interop import weights
from agcnn_jax.models.agcnn import Variables, init_variables
from agcnn_jax.storage import absolute, exists
from agcnn_jax.training import checkpoints
from agcnn_jax.training.experiment import Experiment


def initial_variables(experiment: Experiment) -> Variables:
    """Make the weights of all branches that stage 1 starts from.

    Linear layers are random, drawn from the seed. Backbones are as `config.init` says: `random`;
    converted weights, such as the ImageNet model that both branches start from in the paper; or
    another run's stage, whose global backbone both branches then start from.

    Raises:
        UserError: if `config.init` holds no weights, or weights that do not fit.
    """
    recipe, init = experiment.recipe, experiment.config.init
    variables = jax.jit(lambda key: init_variables(recipe.model, key, recipe.input_size))(
        jax.random.key(recipe.seed)
    )
    if experiment.config.dtype == "float64":
        variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), variables)
    if init == "random":
        return variables
    for branch, backbone in _backbones(experiment).items():
        wanted = {kind: variables[kind][branch]["backbone"] for kind in variables}
        if difference := first_difference(wanted, backbone):
            raise UserError(f"config.init is {init!r}, whose weights do not fit: {difference}")
        for kind, tree in backbone.items():
            variables[kind][branch]["backbone"] = jax.tree.map(
                lambda given, drawn: given.astype(drawn.dtype), tree, wanted[kind]
            )
    return variables


def _backbones(experiment: Experiment) -> dict[str, Mapping[str, Any]]:
    """Read `{"params": ..., "batch_stats": ...}` for the global and the local backbone."""
    init, backbone = experiment.config.init, experiment.config.backbone
    identity = {key: experiment.identity[key] for key in ("backbone", "channels")}
    if weights.is_weights(init):
        return {branch: weights.load_backbone(init, identity, branch) for branch in _READERS}
    directory = absolute(init) / "checkpoints"
    if not exists(directory):
        if backbone in weights.IMAGENET and init == weights.imagenet_directory(backbone):
            raise UserError(weights.missing_imagenet(backbone, init))
        raise UserError(
            f"config.init is {init!r}, which holds no weights; give a folder that "
            f"data_prep/torch_weights.py wrote, that of a trained stage, such as "
            f"runs/resnet/stages/1_global, or random"
        )
    with checkpoints.reading(directory) as manager:
        best, _ = checkpoints.restore_best(manager, identity)
    trained = best["variables"]
    if "global" not in trained["params"]:
        raise UserError(
            f"config.init is {init!r}, a stage that trained {', '.join(trained['params'])}; give "
            f"one that trained the global branch"
        )
    overall = {kind: tree["global"]["backbone"] for kind, tree in trained.items()}
    return dict.fromkeys(_READERS, overall)


_READERS = ("global", "local")
"""The branches with a backbone."""


def first_difference(wanted: Any, given: Any) -> str | None:
    """Name the first array that is missing, extra or of another shape; None if all agree."""
    shapes = [
        {jax.tree_util.keystr(path): array.shape for path, array in jax.tree.leaves_with_path(tree)}
        for tree in (wanted, given)
    ]
    for name in sorted(shapes[0].keys() | shapes[1].keys()):
        ours, theirs = shapes[0].get(name), shapes[1].get(name)
        if ours != theirs:
            return f"{name} has shape {theirs} instead of {ours}"
    return None
