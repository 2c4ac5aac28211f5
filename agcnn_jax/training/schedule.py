"""A stage's steps, batches and optimiser (Section IV-B)."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from agcnn_jax.config.keys import SCALINGS
from agcnn_jax.config.strategies import Stage, stages
from agcnn_jax.models.agcnn import BRANCHES
from agcnn_jax.runtime.devices import check_batch_size
from agcnn_jax.runtime.errors import UserError

if TYPE_CHECKING:  # importing it needs the packages that read data and configs
    from agcnn_jax.run.run import Run


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A stage and its numbers."""

    stage: Stage
    batch_size: int  # of the global batch
    accumulate: int  # micro-batches of every step
    steps_per_epoch: int  # whole batches in the training subset
    total_steps: int
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule

    def learning_rates(self) -> np.ndarray:
        """Return the learning rate of each step, float `[total_steps]`, step 1 first."""
        # All at once: a rate computed during training would queue behind a step on the device.
        return np.asarray(jax.vmap(self.learning_rate)(jnp.arange(self.total_steps)))

    def epoch(self, step: int) -> int:
        """Return the epoch that a step belongs to, from 1."""
        return -(-step // self.steps_per_epoch)

    def ends_epoch(self, step: int) -> bool:
        """Tell whether validation follows a step."""
        return step % self.steps_per_epoch == 0 or step == self.total_steps


def make_schedule(run: Run, stage: Stage) -> Schedule:
    """Derive a stage's schedule from the config; `UserError` if images do not fill a batch.

    A stage that trains several branches takes their smallest batch size (64 in the paper's joint
    training), smallest learning rate and largest number of epochs.
    """
    config = run.config

    def of_branches(key: str) -> list[Any]:
        # A config value has one entry for all branches, or one for each.
        given = tuple(config[key]) * (len(BRANCHES) // len(config[key]))
        return [given[BRANCHES.index(branch)] for branch in stage.branches]

    batch_size = min(of_branches("batch_size"))
    images = len(run.split.train)
    if images < batch_size:
        raise UserError(
            f"config.batch_size of stage {stage.name} is {batch_size}, but the training subset "
            f"has {images} images; use a smaller batch or more images"
        )
    steps_per_epoch = images // batch_size
    planned = max(of_branches("epochs")) * steps_per_epoch
    ratio = batch_size / min(of_branches("reference_batch_size"))
    optimizer, learning_rate = sgd(
        min(of_branches("learning_rate")) * ratio ** SCALINGS[config.learning_rate_scaling],
        drop_step=round(config.drop_after * planned),
        drop_factor=config.drop_factor,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        warmup_steps=round(config.warmup_epochs * steps_per_epoch),
        cosine_steps=planned if config.learning_rate_decay == "cosine" else 0,
    )
    total = min(planned, config.max_steps) if config.max_steps else planned
    return Schedule(
        stage, batch_size, config.accumulate, steps_per_epoch, total, optimizer, learning_rate
    )


def check_batches(run: Run) -> None:
    """Raise `UserError`, with settings that work, unless the devices can share all batches."""
    config, mesh = run.config, run.mesh
    used = {s.name: make_schedule(run, s).batch_size for s in stages(config.strategy)}
    remedy = _offers(config, math.gcd(*used.values()), mesh.size, len(run.split.train))
    for name, size in used.items():
        option = f"config.batch_size of stage {name}"
        check_batch_size(mesh, size, option, config.accumulate, remedy)
    check_batch_size(mesh, config.eval_batch_size, "config.eval_batch_size", remedy=remedy)


def _offers(config: Any, divisor: int, devices: int, images: int) -> str:
    """Name batch sizes that the devices can share, or fewer devices for the batches as they are.

    `divisor` is the greatest common divisor of the stages' batch sizes.
    """
    parts, evaluated = config.accumulate, config.eval_batch_size

    def nearest(size: int, shares: int) -> int:
        return max(1, round(size / shares)) * shares

    def fewer(parts: int) -> list[str]:
        counts = [n for n in range(1, devices + 1) if divisor % (n * parts) == evaluated % n == 0]
        return [f"{counts[-1]} device" + "s" * (counts[-1] > 1)] if counts else []

    changes, shares = [], devices * parts
    sizes = tuple(min(nearest(n, shares), images // shares * shares) for n in config.batch_size)
    if sizes != tuple(config.batch_size):
        changes.append(f'--config.batch_size="{sizes}"'.replace(" ", ""))
    if evaluated % devices:
        changes.append(f"--config.eval_batch_size={nearest(evaluated, devices)}")
    offers = [*([" ".join(changes)] if shares <= images else []), *fewer(parts)]
    return " or ".join(offers or [f"{fewer(1)[0]} with --config.accumulate=1"])


def sgd(
    learning_rate: float,
    drop_step: int,
    drop_factor: float,
    momentum: float,
    weight_decay: float,
    warmup_steps: int = 0,
    cosine_steps: int = 0,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Make PyTorch's SGD, and its learning rate as a function of the step.

    Weight decay on every parameter joins the gradient before the momentum. The learning rate is
    divided by `drop_factor` after `drop_step` steps; or, if `cosine_steps` are given, it falls to 0
    over them as half a cosine (Loshchilov and Hutter 2017, Eq. 5 without restarts). In the first
    `warmup_steps` it rises linearly; the first step already takes a share (Goyal et al. 2017,
    Section 2.2).
    """
    decay = optax.piecewise_constant_schedule(learning_rate, {drop_step: 1 / drop_factor})
    if cosine_steps:
        decay = optax.cosine_decay_schedule(learning_rate, cosine_steps)

    def warming_up(step: Any) -> Any:
        return decay(step) * jnp.minimum(1.0, (step + 1) / warmup_steps)

    schedule = warming_up if warmup_steps else decay
    optimizer = optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.trace(momentum),
        optax.scale_by_learning_rate(schedule),
    )
    return optimizer, schedule
