"""Whether the devices can share a run's batches, and which settings they could share."""

from __future__ import annotations

import itertools
import math

import ml_collections

from agcnn_jax.run.experiment import Experiment
from agcnn_jax.run.strategies import stages
from agcnn_jax.runtime.devices import check_batch_size
from agcnn_jax.training.schedule import make_schedule, per_branch


def check_batches(experiment: Experiment) -> None:
    """Raise `UserError` unless the devices can share all batches, and images can fill them.

    The message offers settings that work in all stages at once.
    """
    config, mesh = experiment.config, experiment.mesh
    schedules = {stage.name: make_schedule(experiment, stage) for stage in stages(config.strategy)}
    remedy = offers(config, mesh.size, len(experiment.split.train))
    for name, schedule in schedules.items():
        option = f"config.batch_size of stage {name}"
        check_batch_size(mesh, schedule.batch_size, option, schedule.accumulate, remedy)
    check_batch_size(mesh, config.eval_batch_size, "config.eval_batch_size", remedy=remedy)


def offers(config: ml_collections.ConfigDict, devices: int, images: int) -> str:
    """Name the closest batch sizes, fewer micro-batches and fewer devices; each alone is enough."""
    sizes, parts = (*config.batch_size, config.eval_batch_size), config.accumulate

    def work(sizes: tuple[int, ...], devices: int, parts: int) -> bool:
        of_branch = per_branch(sizes[:-1])
        batches = [min(of_branch[b] for b in stage.branches) for stage in stages(config.strategy)]
        shared = all(size % (devices * parts) == 0 and size <= images for size in batches)
        return shared and sizes[-1] % devices == 0

    def change(new: tuple[int, ...]) -> float:
        return sum(abs(math.log(after / before)) for before, after in zip(sizes, new, strict=True))

    def words(new: tuple[int, ...]) -> str:
        options = []
        if new[:-1] != sizes[:-1]:
            options.append(f'--config.batch_size="{new[:-1]}"'.replace(" ", ""))
        if new[-1] != sizes[-1]:
            options.append(f"--config.eval_batch_size={new[-1]}")
        return " ".join(options)

    # A joint stage uses the smallest of its branches' sizes, so some may stay as they are.
    near = [_neighbours(size, devices * parts) for size in config.batch_size]
    near.append(_neighbours(config.eval_batch_size, devices))
    closest = sorted(itertools.product(*near), key=change)
    alternatives = (
        [words(new) for new in closest if work(new, devices, parts)],
        [f"--config.accumulate={n}" for n in range(parts - 1, 0, -1) if work(sizes, devices, n)],
        [_count(n) for n in range(devices - 1, 0, -1) if work(sizes, n, parts)],
    )
    if not any(alternatives):
        # One device without micro-batches can take any batch.
        fewer = (n for n in range(devices, 0, -1) if work(sizes, n, 1))
        return f"{_count(next(fewer))} with --config.accumulate=1"
    return " or ".join(found[0] for found in alternatives if found)


def _neighbours(size: int, shares: int) -> set[int]:
    """Return a batch size, and the multiples of `shares` just below and above it."""
    below = size // shares * shares
    return {size, below or shares, below + shares}


def _count(devices: int) -> str:
    return "1 device" if devices == 1 else f"{devices} devices"
