"""What a run will take, from its schedule and the seconds that were measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from agcnn_jax.check.part import Part, in_words
from agcnn_jax.runtime.progress import duration


@dataclasses.dataclass(frozen=True)
class Plan:
    """The numbers of a stage's schedule."""

    name: str
    steps: int
    epochs: int  # each ends with a checkpoint and a validation
    between: int  # further checkpoints, inside epochs


def plan(name: str, total_steps: int, steps_per_epoch: int, checkpoint_every: int) -> Plan:
    """Count the epochs and the checkpoints of a stage."""
    epochs = -(-total_steps // steps_per_epoch)
    ends = {min(epoch * steps_per_epoch, total_steps) for epoch in range(1, epochs + 1)}
    regular = set(range(checkpoint_every, total_steps + 1, checkpoint_every))
    return Plan(name, total_steps, epochs, len(regular - ends))


def stage_seconds(plan: Plan, figures: Mapping[str, Any]) -> dict[str, float]:
    """Return the seconds of a stage by what they go to, given its `measure_stage`.

    The programs are taken from the cache, which the check has filled. A checkpoint is written while
    training or validation goes on; an epoch ends when both its validation and its checkpoint have.
    """
    saved = figures.get("checkpoint", {"training_waits": 0.0, "write": 0.0})
    waits, validation = saved["training_waits"], figures["validation"]["all"]
    writes = saved["write"] - waits
    return {
        "start": figures["first_batch"]
        + figures["compile_again"]
        + figures["validation"]["first_again"],
        "steps": plan.steps * figures["fed"],
        "validation": plan.epochs * validation,
        "checkpoints": (plan.epochs + plan.between) * waits
        + plan.epochs * max(0.0, writes - validation),
    }


def forecast(
    plans: Sequence[Plan], measured: Mapping[str, Mapping[str, Any]], opening: float
) -> Part:
    """Add up what a run takes from its beginning to its end.

    Args:
        plans: of the stages.
        measured: the figures of each stage, by its name.
        opening: seconds from the command until the data and the weights are there.
    """
    seconds = {one.name: stage_seconds(one, measured[one.name]) for one in plans}
    totals = {name: sum(parts.values()) for name, parts in seconds.items()}
    total = opening + sum(totals.values())
    restart = opening + max(
        one["first_batch"] + one["compile_again"] + one.get("checkpoint", {}).get("read", 0.0)
        for one in measured.values()
    )
    # The latest and the best.
    kept = sum(2 * one["checkpoint_bytes"] for one in measured.values())
    figures = {
        "hours": total / 3600,
        "hours_by_stage": {name: one / 3600 for name, one in totals.items()},
        "seconds_by_stage": seconds,
        "seconds_of_opening": opening,
        "validation_hours": sum(one["validation"] for one in seconds.values()) / 3600,
        "checkpoints_gigabytes": kept / 1e9,
        "restart_seconds": restart,
    }
    stages = ", ".join(f"{name} {duration(one)}" for name, one in totals.items())
    validation = 3600 * figures["validation_hours"]
    lines = (
        f"the run takes {duration(total)}: {stages}; {duration(validation)} of it validation",
        f"checkpoints take {in_words(kept)} at most; a restart takes {duration(restart)}",
    )
    return Part("forecast", figures, lines)


def bytes_to_write(sizes: Mapping[str, int], begun: Sequence[str]) -> int:
    """Return how much a run has still to write at most: two checkpoints of each stage, and one.

    Args:
        sizes: bytes of a checkpoint of each stage.
        begun: the stages that have written theirs; these only replace them.
    """
    new = sum(2 * size for name, size in sizes.items() if name not in begun)
    # The new one is complete before an old one is deleted.
    return new + max(sizes.values())
