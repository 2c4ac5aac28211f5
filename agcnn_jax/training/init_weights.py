"""The weights that a run starts from: random, converted, or from another run's stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from agcnn_jax.interop import weights
from agcnn_jax.models.agcnn import Variables, init_variables
from agcnn_jax.run import lineage, saved_config
from agcnn_jax.run.checkpoints import StageCheckpoints
from agcnn_jax.run.experiment import Experiment
from agcnn_jax.run.lineage import Lineage
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.storage import absolute, exists

_draw = jax.jit(init_variables, static_argnums=(0, 2))

_WITH_BACKBONE = ("global", "local")


@dataclasses.dataclass(frozen=True)
class Init:
    """The weights in `config.init`.

    Attributes:
        backbones: `{"params": ..., "batch_stats": ...}` for the global and the local branch.
        digest: of the backbones.
        lineage: what they have been trained on.
    """

    backbones: Mapping[str, Mapping[str, Any]]
    digest: str
    lineage: Lineage


def initial_variables(experiment: Experiment, init: Init | None) -> Variables:
    """Make the weights of all branches that stage 1 starts from.

    Args:
        experiment: see `Experiment`.
        init: whose backbones to start from. None for random ones, which are drawn from the seed as
            the linear layers always are.

    Raises:
        UserError: if the backbones do not fit.
    """
    recipe = experiment.recipe
    variables = _draw(recipe.model, jax.random.key(recipe.seed), recipe.input_size)
    if experiment.config.dtype == "float64":
        variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), variables)
    for branch, backbone in (init.backbones if init else {}).items():
        wanted = {kind: variables[kind][branch]["backbone"] for kind in variables}
        if difference := first_difference(wanted, backbone):
            raise _refused(experiment, f"whose weights do not fit: {difference}")
        for kind, tree in backbone.items():
            variables[kind][branch]["backbone"] = jax.tree.map(
                lambda given, drawn: given.astype(drawn.dtype), tree, wanted[kind]
            )
    return variables


def read_init(experiment: Experiment) -> Init | None:
    """Read `config.init`: converted weights, or another run's stage; None if it is `random`.

    In the paper both branches start from an ImageNet model. From another run's stage, both take
    the global branch's backbone.

    Raises:
        UserError: if it holds no weights, or weights that do not fit the config.
    """
    init = experiment.config.init
    if init == "random":
        return None
    read = _read_converted if weights.is_weights(init) else _read_stage
    backbones, seen = read(experiment)
    return Init(backbones, lineage.digest(backbones), seen)


def _read_converted(experiment: Experiment) -> tuple[dict[str, Any], Lineage]:
    init = experiment.config.init
    backbones = {
        branch: weights.load_backbone(init, _identity(experiment), branch)
        for branch in _WITH_BACKBONE
    }
    about = weights.describe(init)
    _check_normalisation(experiment, about["mean"], about["std"])
    return backbones, weights.lineage(init)


def _read_stage(experiment: Experiment) -> tuple[dict[str, Any], Lineage]:
    init, backbone = experiment.config.init, experiment.config.backbone
    stage = absolute(init)
    if not exists(stage / "checkpoints"):
        if backbone in weights.IMAGENET and init == weights.imagenet_directory(backbone):
            raise UserError(weights.missing_imagenet(backbone, init))
        raise _refused(
            experiment,
            "which holds no weights; give a folder that data_prep/torch_weights.py wrote, a "
            "trained stage such as runs/resnet/stages/1_global, or random",
        )
    with StageCheckpoints(stage / "checkpoints", read_only=True) as checkpoints:
        best, saved = checkpoints.restore_best(_identity(experiment))
    trained = best["variables"]
    if "global" not in trained["params"]:
        names = ", ".join(trained["params"])
        raise _refused(
            experiment, f"a stage that trained {names}; give one that trained the global branch"
        )
    global_backbone = {kind: tree["global"]["backbone"] for kind, tree in trained.items()}
    backbones = dict.fromkeys(_WITH_BACKBONE, global_backbone)
    # A stage says what it was trained on only from within its own run's folder.
    workdir = stage.parent.parent
    config = saved_config.read_config(workdir)
    if config is None:
        return backbones, lineage.UNKNOWN
    seen, _ = lineage.read(workdir)
    if saved.get("lineage") != seen.digest:
        return backbones, lineage.UNKNOWN
    _check_normalisation(experiment, config.mean, config.std)
    return backbones, seen


def _identity(experiment: Experiment) -> dict[str, Any]:
    return {key: experiment.identity[key] for key in ("backbone", "channels")}


def _refused(experiment: Experiment, reason: str) -> UserError:
    return UserError(f"config.init is {experiment.config.init!r}, {reason}")


def _check_normalisation(experiment: Experiment, mean: Any, std: Any) -> None:
    config = experiment.config
    theirs = tuple(map(float, mean)), tuple(map(float, std))
    ours = tuple(map(float, config.mean)), tuple(map(float, config.std))
    if config.init_normalisation != "own" and theirs != ours:
        raise _refused(
            experiment,
            f"made for another config.mean and config.std; set --config.mean='{theirs[0]}' "
            f"--config.std='{theirs[1]}', or keep yours on purpose with "
            f"--config.init_normalisation=own",
        )


def first_difference(wanted: Any, given: Any) -> str | None:
    """Name the first array that is missing, extra or of another shape; None if all agree."""
    ours, theirs = (
        {jax.tree_util.keystr(path): array.shape for path, array in jax.tree.leaves_with_path(tree)}
        for tree in (wanted, given)
    )
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            return f"{name} has shape {theirs.get(name)} instead of {ours.get(name)}"
    return None
