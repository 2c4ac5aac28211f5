"""Training and measuring the runs of experiments, and taking over those that exist."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from etils import epath

from agcnn_jax.experiments.plan import OF_BACKBONE, VARIED, Run
from agcnn_jax.experiments.result import Result, measure_run
from agcnn_jax.models.agcnn import BRANCHES
from agcnn_jax.run import lineage, saved_config
from agcnn_jax.run.config import flatten
from agcnn_jax.run.experiment import Experiment, open_experiment
from agcnn_jax.run.keys import KEYS
from agcnn_jax.run.stage_results import finished_stages, finished_variables
from agcnn_jax.run.strategies import stages
from agcnn_jax.run.takeover import read_values, stage_values
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.processes import announce, from_primary, sync_call
from agcnn_jax.runtime.storage import read_json, reported, write_json
from agcnn_jax.training.loop import train
from agcnn_jax.training.schedule import make_schedule

RUNS, RESULTS = "runs", "results"
"""The folders of a workdir of experiments: one folder a run, one JSON file a result."""

MEASURE_AGAIN = "delete it, and the run is measured again"

DEFAULTS = {name: key.default for name, key in KEYS.items()}


@dataclasses.dataclass(frozen=True)
class Known:
    """What a workdir holds.

    Attributes:
        runs: the folder of each run, with the keys that its results depend on.
        results: the files of finished runs.
    """

    runs: dict[str, dict[str, Any]]
    results: list[Result]

    def result(self, run: Run) -> Result | None:
        """Return the result of a run, wherever it lies."""
        for result in self.results:
            if saved_config.same(result.values, run.values):
                return result
        return None


def survey(place: epath.Path, run: Run, data: Mapping[str, Any]) -> Known:
    """List what a workdir of experiments holds; `UserError` if it does not belong together.

    Args:
        place: the workdir.
        run: one of those asked for.
        data: `Experiment.data_summary` of the data asked for.
    """
    folders: dict[str, dict[str, Any]] = {}
    for folder in _listed(place / RUNS):
        config = saved_config.read_config(folder)
        if config is not None:
            folders[str(folder)] = read_values(flatten(config.to_dict()))
            _refuse_other(folder, folders[str(folder)], read_json(folder / "data.json"), run, data)
    results = []
    for path in _listed(place / RESULTS):
        if path.suffix == ".json":
            content = read_json(path, MEASURE_AGAIN)
            if not {"config", "data", "weights", "test", "validation"} <= set(content):
                raise UserError(f"{path} is damaged; {MEASURE_AGAIN}")
            # A key that a file lacks is newer than the file; its default is what the run did.
            values = read_values({**DEFAULTS, **content["config"]})
            _refuse_other(path, values, content["data"], run, data)
            results.append(Result(values, content))
    return Known(folders, results)


def _listed(folder: epath.Path) -> list[epath.Path]:
    with reported(folder, "read"):
        return sorted(folder.iterdir()) if folder.exists() else []


def _refuse_other(
    path: epath.Path,
    values: Mapping[str, Any],
    trained_on: Mapping[str, Any],
    run: Run,
    data: Mapping[str, Any],
) -> None:
    """Raise `UserError` if a run differs in more than experiments and backbones may differ in."""
    wanted = run.values
    may_differ = {*VARIED, *OF_BACKBONE, *_unread_beside(wanted, values)}
    for key in sorted({*wanted, *values} - may_differ):
        if not saved_config.same(wanted.get(key), values.get(key)):
            raise UserError(
                f"{path} has config.{key} {values.get(key)!r}, but {wanted.get(key)!r} is asked "
                f"for; runs of one --workdir differ in {', '.join(OF_BACKBONE)} alone: choose "
                f"another --workdir, or repeat that config"
            )
    for key in sorted({*data, *trained_on}):
        if not saved_config.same(data.get(key), trained_on.get(key)):
            raise UserError(
                f"{path} was trained on other data: {key} is {trained_on.get(key)!r}, but "
                f"{data.get(key)!r} in config.data.dir; choose another --workdir, or repeat that "
                f"data"
            )


def _unread_beside(wanted: Mapping[str, Any], values: Mapping[str, Any]) -> set[str]:
    """Name the keys that only one of two runs reads, because of a key that experiments set."""
    return {key for key in {*wanted, *values} if key.startswith("attention.")} - (
        set(wanted) & set(values)
    )


def open_data(run: Run, place: epath.Path) -> Experiment:
    """Open the data of a run; `UserError` without images to choose checkpoints by."""
    experiment = open_experiment(run.config, place)
    if not len(experiment.split.validation):
        raise UserError(
            f"config.data.dir {run.config.data.dir} has no validation images in the "
            f"{run.config.data.protocol} protocol; experiments choose the best weights by them: "
            f"use another config.data.protocol, or lists with a validation list"
        )
    return experiment


def complete(place: epath.Path, runs: Sequence[Run]) -> None:
    """Train and measure all runs that have no result yet."""
    experiment = sync_call(lambda: open_data(runs[0], place))
    data = experiment.data_summary

    def found() -> list[bool]:
        known = survey(place, runs[0], data)
        return [known.result(run) is not None for run in runs]

    done = from_primary(found)
    todo = _distinct(run for run, is_done in zip(runs, done, strict=True) if not is_done)
    clock = _Clock(experiment, todo)
    for number, run in enumerate(todo, start=1):
        announce(f"run {number} of {len(todo)}: {run.name}{clock.left(number - 1)}")
        clock.start()
        complete_run(place, run, data)
        clock.stop(number - 1)


def _distinct(runs: Iterable[Run]) -> list[Run]:
    kept: list[Run] = []
    for run in runs:
        if not any(saved_config.same(run.values, other.values) for other in kept):
            kept.append(run)
    return kept


def complete_run(place: epath.Path, run: Run, data: Mapping[str, Any]) -> None:
    """Train what remains of a run, and write its result."""

    def choose() -> list[Any]:
        known = survey(place, run, data)
        mine = [f for f, values in known.runs.items() if saved_config.same(values, run.values)]
        free = (n for n in _names(run.name) if str(place / RUNS / n) not in known.runs)
        return [mine[0] if mine else str(place / RUNS / next(free)), list(known.runs)]

    folder, donors = from_primary(choose)
    began = time.perf_counter()
    train(run.config, folder, donors)
    trained = time.perf_counter()

    def opened() -> tuple[Experiment, Any]:
        experiment = open_experiment(run.config, epath.Path(folder))
        strategy = run.config.strategy
        return experiment, finished_variables(experiment.workdir, strategy, experiment.identity)[0]

    experiment, variables = sync_call(opened)
    seconds = {"training": round(trained - began, 1)}
    content = measure_run(experiment, variables, seconds)
    seconds["measuring"] = round(time.perf_counter() - trained, 1)

    def keep() -> None:
        weights: dict[str, str] = {}
        for _, result in finished_stages(experiment.workdir, run.config.strategy):
            weights |= result["weights"]
        seen, init = lineage.read(experiment.workdir)
        about = {
            "config": run.values,
            "data": experiment.data_summary,
            "lineage": seen.digest,
            "init": init,
            "weights": weights,
        }
        name = folder.rsplit("/", 1)[-1]
        write_json(place / RESULTS / f"{name}.json", {**about, **content}, indent=1)

    from_primary(keep)


def _names(name: str) -> Iterable[str]:
    yield name
    number = 2
    while True:
        yield f"{name}_{number}"
        number += 1


class _Clock:
    """Estimates the time that is left, from the work of the runs that are done.

    A pass of a backbone over an image counts 1, and training it 3. Stages that another run trains
    count once.
    """

    def __init__(self, experiment: Experiment, runs: Sequence[Run]):
        self._work: list[float] = []
        counted: list[Any] = []
        for run in runs:
            experiment = dataclasses.replace(experiment, config=run.config)
            values, total = flatten(run.config.to_dict()), 0.0
            for count, stage in enumerate(stages(run.config.strategy), start=1):
                if (key := (stage.branches, stage_values(values, count))) not in counted:
                    counted.append(key)
                    schedule = make_schedule(experiment, stage)
                    trained = len({"global", "local"} & set(stage.branches))
                    read = BRANCHES.index(stage.branches[-1]) + 1 if len(stage.branches) == 1 else 2
                    frozen = max(0, min(2, read) - trained)
                    total += schedule.total_steps * schedule.batch_size * (3 * trained + frozen)
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
