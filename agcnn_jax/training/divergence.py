"""Training that diverged: losses or weights that are not finite are never saved."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from agcnn_jax.run.checkpoints import StageCheckpoints
from agcnn_jax.run.strategies import Stage
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.training.steps import TrainState


def fetch_losses(
    stage: Stage, checkpoints: StageCheckpoints, step: int, metrics: dict[str, jax.Array]
) -> dict[str, float]:
    """Bring a step's losses to the host.

    Raises:
        UserError: if the loss is not finite, naming the stage, the step and the checkpoint to
            return to.
    """
    losses = {name: float(value) for name, value in jax.device_get(metrics).items()}
    if not math.isfinite(losses["loss"]):
        raise diverged(stage, checkpoints, step, f"the loss is {losses['loss']}")
    return losses


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    leaves = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]
    return functools.reduce(jnp.logical_and, leaves, jnp.array(True))


def check_finite(stage: Stage, checkpoints: StageCheckpoints, step: int, state: TrainState) -> None:
    """Raise `UserError` if a state is not finite; its step's loss was taken before the update."""
    if not np.asarray(jax.device_get(_all_finite(state))):
        raise diverged(stage, checkpoints, step, "weights are not finite")


def diverged(stage: Stage, checkpoints: StageCheckpoints, step: int, what: str) -> UserError:
    """Say at which step of a stage training diverged, and which checkpoint is left.

    Args:
        stage: that is trained.
        checkpoints: of the stage.
        step: at which that was found. It may be saved already; what counts is the one before.
        what: is not finite.
    """
    checkpoints.finish()
    good = max((saved for saved in checkpoints.all_steps() if saved < step), default=None)
    kept = "there is no checkpoint yet" if good is None else f"the last checkpoint is step {good}"
    return UserError(
        f"{what} at step {step} of stage {stage.name}; {kept} in {checkpoints.directory}; try a "
        f"smaller config.learning_rate in another --workdir"
    )
