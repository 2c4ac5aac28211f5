"""The weights that training starts from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from agcnn_jax.interop import weights
from agcnn_jax.models.agcnn import Variables, init_variables
from agcnn_jax.run import lineage, saved_config
from agcnn_jax.run.checkpoints import StageCheckpoints
from agcnn_jax.run.experiment import Experiment
from agcnn_jax.run.lineage import Lineage
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.storage import absolute, exists

_draw = jax.jit(init_variables, static_argnums=(0, 2))

_READERS = ("global", "local")
"""The branches with a backbone."""


@dataclasses.dataclass(frozen=True)
class Init:
    """The weights in `config.init`.

    Attributes:
        backbones: `{"params": ..., "batch_stats": ...}` for the global and the local branch.
        digest: of these.
        lineage: what they have been trained on.
    """

    backbones: Mapping[str, Mapping[str, Any]]
    digest: str
    lineage: Lineage


def initial_variables(experiment: Experiment, init: Init | None) -> Variables:
    """Make the weights of all branches that stage 1 starts from.

    Args:
        experiment: see `Experiment`.
        init: whose backbones to start from; None for random ones, drawn from the seed as the
            linear layers are.

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
            raise UserError(
                f"config.init is {experiment.config.init!r}, whose weights do not fit: {difference}"
            )
        for kind, tree in backbone.items():
            variables[kind][branch]["backbone"] = jax.tree.map(
                lambda given, drawn: given.astype(drawn.dtype), tree, wanted[kind]
            )
    return variables


def read_init(experiment: Experiment) -> Init | None:
    """Read `config.init`: converted weights, or another run's stage; None where it is `random`.

    In the paper both branches start from an ImageNet model; converted weights may be one. From
    another run's stage, both branches take the global backbone.

    Raises:
        UserError: if it holds no weights, or weights that do not fit the config.
    """
    init = experiment.config.init
    if init == "random":
        return None
    read = _converted if weights.is_weights(init) else _stage
    backbones, seen = read(experiment)
    return Init(backbones, lineage.digest(backbones), seen)


def _converted(experiment: Experiment) -> tuple[dict[str, Any], Lineage]:
    init = experiment.config.init
    backbones = {
        branch: weights.load_backbone(init, _identity(experiment), branch) for branch in _READERS
    }
    about = weights.describe(init)
    _check_normalisation(experiment, about["mean"], about["std"])
    return backbones, weights.lineage(init)


def _stage(experiment: Experiment) -> tuple[dict[str, Any], Lineage]:
    init, backbone = experiment.config.init, experiment.config.backbone
    stage = absolute(init)
    directory = stage / "checkpoints"
    if not exists(directory):
        if backbone in weights.IMAGENET and init == weights.imagenet_directory(backbone):
            raise UserError(weights.missing_imagenet(backbone, init))
        raise UserError(
            f"config.init is {init!r}, which holds no weights; give a folder that "
            f"data_prep/torch_weights.py wrote, that of a trained stage, such as "
            f"runs/resnet/stages/1_global, or random"
        )
    with StageCheckpoints(directory, read_only=True) as checkpoints:
        best, saved = checkpoints.restore_best(_identity(experiment))
    trained = best["variables"]
    if "global" not in trained["params"]:
        raise UserError(
            f"config.init is {init!r}, a stage that trained {', '.join(trained['params'])}; give "
            f"one that trained the global branch"
        )
    overall = {kind: tree["global"]["backbone"] for kind, tree in trained.items()}
    return dict.fromkeys(_READERS, overall), _run_of(stage, saved, experiment)


def _run_of(stage: epath.Path, saved: Mapping[str, Any], experiment: Experiment) -> Lineage:
    """Read what a stage's run was trained on, and compare its normalisation.

    A stage that was copied out of its run says nothing about either, also where it lies in the
    folder of another run.
    """
    workdir = stage.parent.parent
    config = saved_config.read_config(workdir)
    if config is None:
        return lineage.UNKNOWN
    seen, _ = lineage.kept(workdir)
    if saved.get("lineage") != seen.digest:
        return lineage.UNKNOWN
    _check_normalisation(experiment, config.mean, config.std)
    return seen


def _identity(experiment: Experiment) -> dict[str, Any]:
    return {key: experiment.identity[key] for key in ("backbone", "channels")}


def _check_normalisation(experiment: Experiment, mean: Any, std: Any) -> None:
    config = experiment.config
    if config.init_normalisation == "own":
        return
    theirs = tuple(map(float, mean)), tuple(map(float, std))
    if theirs != (tuple(map(float, config.mean)), tuple(map(float, config.std))):
        raise UserError(
            f"config.init is {config.init!r}, made for another config.mean and config.std; "
            f"set --config.mean='{theirs[0]}' --config.std='{theirs[1]}', or "
            f"keep yours on purpose with --config.init_normalisation=own"
        )


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
