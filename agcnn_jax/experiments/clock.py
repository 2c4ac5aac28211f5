"""How much time the runs of experiments still need."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from agcnn_jax.config import saved as saved_config
from agcnn_jax.config.keys import flatten
from agcnn_jax.config.strategies import Stage, stages
from agcnn_jax.experiments.plan import PlannedRun
from agcnn_jax.run.run import Run
from agcnn_jax.run.stage_results import read_result, stage_directory
from agcnn_jax.run.takeover import stage_values
from agcnn_jax.training.schedule import make_schedule


class Clock:
    """Estimates the time that is left, from the work of the runs that are done.

    A pass of a backbone over an image counts 1, and training it 3. Stages that another run has
    trained, or trains, do not count again.
    """

    def __init__(
        self, experiment: Run, runs: Sequence[PlannedRun], known: Mapping[str, Mapping[str, Any]]
    ):
        """Estimate the work of runs; `known` are the flat configs of those that are there."""
        self._work: list[float] = []
        counted: list[Any] = []
        for folder, config in known.items():
            place = epath.Path(folder)
            for count, stage in enumerate(stages(config["strategy"]), start=1):
                if read_result(stage_directory(place, stage)):
                    counted.append((stage.branches, stage_values(config, count)))
        for run in runs:
            experiment = dataclasses.replace(experiment, config=run.config)
            values, total = flatten(run.config.to_dict()), 0.0
            for count, stage in enumerate(stages(run.config.strategy), start=1):
                key = (stage.branches, stage_values(values, count))
                if not any(saved_config.same(key, other) for other in counted):
                    counted.append(key)
                    total += _stage_work(experiment, stage)
            self._work.append(total)
        self._done = self._seconds = 0.0
        self._began = 0.0

    def start(self) -> None:
        """A run begins."""
        self._began = time.perf_counter()

    def stop(self, index: int) -> None:
        """A run ends."""
        self._seconds += time.perf_counter() - self._began
        self._done += self._work[index]

    def left(self, index: int) -> str:
        """Say how much time is left before a run."""
        if not self._done:
            return ""
        minutes = self._seconds / self._done * sum(self._work[index:]) / 60
        return f", about {minutes:.0f} min left" if minutes >= 1 else ", less than 1 min left"


def _stage_work(experiment: Run, stage: Stage) -> float:
    schedule = make_schedule(experiment, stage)
    trained = len({"global", "local"} & set(stage.branches))
    needed = 1 if stage.branches == ("global",) else 2
    return schedule.total_steps * schedule.batch_size * (3.0 * trained + needed - trained)
