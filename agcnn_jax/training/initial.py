"""The weights that training starts from."""

from __future__ import annotations

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
    for branch in ("global", "local"):
        for kind in ("params", "batch_stats"):
            variables[kind][branch]["backbone"] = trained[kind]["global"]["backbone"]
    return variables
