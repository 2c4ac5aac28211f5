"""Whether the devices can share a run's batches, and which settings they could share."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

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
    """Name the smallest changes with which the devices share all batches; any one is enough.

    Args:
        config: of the run.
        devices: number of devices.
        images: in the training subset.

    Returns:
        The closest batch sizes, fewer micro-batches, or fewer devices.
    """
    batch_size, parts = tuple(config.batch_size), config.accumulate
    before = (*batch_size, config.eval_batch_size)

    def works(sizes: Sequence[int], devices: int, parts: int) -> bool:
        of_branch = per_branch(sizes[:-1])
        batches = [min(of_branch[b] for b in stage.branches) for stage in stages(config.strategy)]
        shared = all(size % (devices * parts) == 0 and size <= images for size in batches)
        return shared and sizes[-1] % devices == 0

    def closest() -> str:
        choices = itertools.product(
            *(_neighbours(size, devices * parts) for size in batch_size),
            _neighbours(config.eval_batch_size, devices),
        )
        fitting = [sizes for sizes in choices if works(sizes, devices, parts)]
        if not fitting:
            return ""
        *new, evaluation = min(fitting, key=lambda sizes: _distance(before, sizes))
        options = []
        if tuple(new) != batch_size:
            listed = ",".join(map(str, new)) + ("," if len(new) == 1 else "")
            options.append(f'--config.batch_size="({listed})"')
        if evaluation != config.eval_batch_size:
            options.append(f"--config.eval_batch_size={evaluation}")
        return " ".join(options)

    fewer_parts = [n for n in range(parts - 1, 0, -1) if works(before, devices, n)]
    fewer_devices = [n for n in range(devices - 1, 0, -1) if works(before, n, parts)]
    found = [
        closest(),
        f"--config.accumulate={fewer_parts[0]}" if fewer_parts else "",
        _count(fewer_devices[0]) if fewer_devices else "",
    ]
    if not any(found):
        # One device without micro-batches can take any batch.
        most = next(n for n in range(devices, 0, -1) if works(before, n, 1))
        found = [f"{_count(most)} with --config.accumulate=1"]
    return " or ".join(filter(None, found))


def _count(devices: int) -> str:
    return f"{devices} device" + ("s" if devices > 1 else "")


def _neighbours(size: int, shares: int) -> set[int]:
    """Return a batch size, and the multiples of `shares` just below and above it."""
    below = size // shares * shares
    return {size, below or shares, below + shares}


def _distance(before: Sequence[int], after: Sequence[int]) -> tuple[int, float]:
    """Count the sizes that change, then measure by how much."""
    ratios = [abs(math.log(new / old)) for old, new in zip(before, after, strict=True)]
    return sum(ratio > 0 for ratio in ratios), sum(ratios)
