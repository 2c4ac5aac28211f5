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
    """Raise `UserError` unless all batches can be filled and shared by the devices.

    The message offers settings with which they can, in all stages at once.
    """
    config, mesh = experiment.config, experiment.mesh
    schedules = {stage.name: make_schedule(experiment, stage) for stage in stages(config.strategy)}
    remedy = offers(config, mesh.size, len(experiment.split.train))
    for name, schedule in schedules.items():
        option = f"config.batch_size of stage {name}"
        check_batch_size(mesh, schedule.batch_size, option, schedule.accumulate, remedy)
    check_batch_size(mesh, config.eval_batch_size, "config.eval_batch_size", remedy=remedy)


def offers(config: ml_collections.ConfigDict, devices: int, images: int) -> str:
    """Name the smallest changes that let devices share all batches; any one of them is enough.

    The changes are other batch sizes, fewer micro-batches or fewer devices.

    Args:
        config: of the run.
        devices: number of devices.
        images: in the training subset.
    """

    def works(devices: int, accumulate: int) -> bool:
        shared = _shared(config, config.batch_size, devices, accumulate, images)
        return shared and config.eval_batch_size % devices == 0

    accumulate = config.accumulate
    found = [closest_batches(config, devices, images)]
    for fewer in range(accumulate - 1, 0, -1):
        if works(devices, fewer):
            found.append(f"--config.accumulate={fewer}")
            break
    for fewer in range(devices - 1, 0, -1):
        if works(fewer, accumulate):
            found.append(_count(fewer))
            break
    if not any(found):
        # One device without micro-batches can take any batch.
        most = next(fewer for fewer in range(devices, 0, -1) if works(fewer, 1))
        found.append(f"{_count(most)} with --config.accumulate=1")
    return " or ".join(filter(None, found))


def _count(devices: int) -> str:
    return f"{devices} device" + ("s" if devices > 1 else "")


def closest_batches(config: ml_collections.ConfigDict, devices: int, images: int) -> str:
    """Name the closest batch sizes that the devices can share, as options of the command line.

    Returns:
        The options that have to change; empty if the training subset is too small for any.
    """
    shares = devices * config.accumulate
    old = tuple(config.batch_size)
    choices = itertools.product(*(_neighbours(size, shares) for size in old))
    shared = [new for new in choices if _shared(config, new, devices, config.accumulate, images)]
    if not shared:
        return ""
    new = min(shared, key=lambda sizes: _distance(old, sizes))
    evaluation = (config.eval_batch_size,)
    new_evaluation = min(
        ((size,) for size in _neighbours(*evaluation, devices) if size % devices == 0),
        key=lambda size: _distance(evaluation, size),
    )
    options = []
    if new != old:
        listed = ",".join(map(str, new)) + ("," if len(new) == 1 else "")
        options.append(f'--config.batch_size="({listed})"')
    if new_evaluation != evaluation:
        options.append(f"--config.eval_batch_size={new_evaluation[0]}")
    return " ".join(options)


def _neighbours(size: int, shares: int) -> set[int]:
    """A batch size, and the multiples of `shares` just below and above it."""
    below = size // shares * shares
    return {size, below or shares, below + shares}


def _distance(old: Sequence[int], new: Sequence[int]) -> tuple[int, float]:
    """How many sizes change, then by how much."""
    ratios = [abs(math.log(after / before)) for before, after in zip(old, new, strict=True)]
    return sum(ratio > 0 for ratio in ratios), sum(ratios)


def _shared(
    config: ml_collections.ConfigDict,
    batch_size: Sequence[int],
    devices: int,
    parts: int,
    images: int,
) -> bool:
    """Whether devices can share every stage's batch in micro-batches, and images fill it."""
    sizes = per_branch(batch_size)
    batches = [min(sizes[branch] for branch in s.branches) for s in stages(config.strategy)]
    return all(size % (devices * parts) == 0 and size <= images for size in batches)
