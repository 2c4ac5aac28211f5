"""The weights that training starts from."""

from __future__ import annotations

from typing import Any

import jax
from etils import epath

from agcnn_jax.errors import UserError
from agcnn_jax.models.agcnn import Variables, init_variables
from agcnn_jax.training import checkpoints
from agcnn_jax.training.experiment import Experiment


def initial_variables(experiment: Experiment) -> Variables:
    """Make the weights of all branches that stage 1 starts from.

    Linear layers are random, drawn from the seed. Backbones are too, unless `config.init` names
    another run's stage: then the global and the local branch both start from its global backbone,
    as both start from one ImageNet model in the paper.

    Raises:
        UserError: if `config.init` holds no such checkpoint, or one of another backbone.
    """
    recipe, init = experiment.recipe, experiment.config.init
    variables = jax.jit(lambda key: init_variables(recipe.model, key, recipe.input_size))(
        jax.random.key(recipe.seed)
    )
    if init == "random":
        return variables
    directory = epath.Path(init) / "checkpoints"
    if not directory.exists():
        raise UserError(
            f"config.init is {init!r}, which holds no checkpoints; give the folder of a trained "
            f"stage, such as runs/resnet/stages/1_global, or random"
        )
    identity = {key: experiment.identity[key] for key in ("backbone", "channels")}
    with checkpoints.open_manager(directory.resolve()) as manager:
        trained = checkpoints.restore_best(manager, identity)["variables"]
    if "global" not in trained["params"]:
        raise UserError(
            f"config.init is {init!r}, a stage that trained {', '.join(trained['params'])}; give "
            f"one that trained the global branch"
        )
    backbone = {kind: trained[kind]["global"]["backbone"] for kind in variables}
    wanted = {kind: variables[kind]["global"]["backbone"] for kind in variables}
    if difference := first_difference(wanted, backbone):
        raise UserError(f"config.init is {init!r}, whose weights do not fit: {difference}")
    for branch in ("global", "local"):
        for kind, tree in backbone.items():
            variables[kind][branch]["backbone"] = tree
    return variables


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
