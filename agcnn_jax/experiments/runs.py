"""Training and measuring the runs of experiments, and taking over those that exist."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from etils import epath

from agcnn_jax.config.keys import flatten, read_values
from agcnn_jax.config.saved import read_config, same
from agcnn_jax.experiments.plan import OF_BACKBONE, VARIED, PlannedRun
from agcnn_jax.experiments.result import MEASURE_AGAIN, RunResult, make_result, measure_run
from agcnn_jax.run import lineage
from agcnn_jax.run.run import Run, open_run
from agcnn_jax.run.stage_results import finished_stages, finished_variables
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.processes import from_primary, sync_call
from agcnn_jax.runtime.storage import exists, read_json, reported, write_json
from agcnn_jax.training.loop import train
from agcnn_jax.training.start import read_init

RUNS, RESULTS, BASE = "runs", "results", "experiments.json"
"""In a workdir of experiments: a folder for each run, a JSON file for each result, and the config
that all have in common."""


@dataclasses.dataclass(frozen=True)
class Inventory:
    """What a workdir holds.

    Attributes:
        runs: the config of each run, flat, by the run's folder.
        results: of finished runs.
    """

    runs: dict[str, dict[str, Any]]
    results: list[RunResult]


def survey(place: epath.Path, planned: PlannedRun, data: Mapping[str, Any]) -> Inventory:
    """List what a workdir of experiments holds; `UserError` if it does not belong together.

    Args:
        place: the workdir.
        planned: one of the runs asked for.
        data: `Run.data_summary` of the data asked for.
    """
    if exists(place / "config.json"):
        raise UserError(f"--workdir {place} is a run of train.py; choose another for experiments")
    if exists(place / BASE):
        _check_base(place / BASE, planned)
    folders: dict[str, dict[str, Any]] = {}
    starts: dict[str, tuple[str | None, epath.Path]] = {}
    for folder in _listed(place / RUNS):
        config = read_config(folder)
        if config is not None:
            folders[str(folder)] = flat = flatten(config.to_dict())
            trained_on = read_json(folder / "data.json")
            _check_alike(folder, read_values(flat), trained_on, planned, data)
            _check_same_start(starts, flat["init"], lineage.read(folder)[1], folder)
    results: list[RunResult] = []
    for path in _listed(place / RESULTS):
        if path.suffix == ".json":
            result = make_result(str(path), read_json(path, MEASURE_AGAIN))
            _check_alike(path, result.values, result.content["data"], planned, data)
            _check_same_start(starts, result.values["init"], result.content["init"], path)
            for other in results:
                if same(other.values, result.values):
                    raise UserError(f"{path} and {other.path} are of the same run; delete one")
            results.append(result)
    return Inventory(folders, results)


def keep_base(place: epath.Path, planned: PlannedRun) -> None:
    """Write what all runs of a workdir have in common, unless it is there."""
    if not exists(place / BASE):
        write_json(place / BASE, {"config": planned.base})


def _check_base(path: epath.Path, planned: PlannedRun) -> None:
    """Raise `UserError` if the workdir was begun with another config, the backbone's keys apart."""
    base = read_json(path, "delete it, and run the command that the workdir was begun with")
    for key, value in planned.base.items():
        theirs = base.get("config", {}).get(key)
        if key not in OF_BACKBONE and not same(theirs, value):
            raise UserError(
                f"{path} says that these experiments began with config.{key} {theirs!r}, but "
                f"{value!r} is asked for; choose another --workdir, or repeat that config"
            )


def _check_same_start(
    starts: dict[str, tuple[str | None, epath.Path]],
    init: str,
    digest: str | None,
    path: epath.Path,
) -> None:
    """Raise `UserError` if two runs started from different weights under one name."""
    first_digest, first = starts.setdefault(init, (digest, path))
    if init != "random" and first_digest != digest:
        raise UserError(
            f"{path} started from other weights in config.init {init} (digest {digest}) than "
            f"{first} (digest {first_digest}); choose another --workdir, or delete one of them"
        )


def _listed(folder: epath.Path) -> list[epath.Path]:
    with reported(folder, "read"):
        return sorted(folder.iterdir()) if folder.exists() else []


def _check_alike(
    path: epath.Path,
    values: Mapping[str, Any],
    trained_on: Mapping[str, Any],
    planned: PlannedRun,
    data: Mapping[str, Any],
) -> None:
    """Raise `UserError` if a run differs in more than experiments and backbones may differ in."""
    wanted = planned.values
    # Only one of two runs may read these, because of a key that experiments set.
    unread = {key for key in set(wanted) ^ set(values) if key.startswith("attention.")}
    for key in sorted({*wanted, *values} - {*VARIED, *OF_BACKBONE} - unread):
        if not same(wanted.get(key), values.get(key)):
            raise UserError(
                f"{path} has config.{key} {values.get(key)!r}, but {wanted.get(key)!r} is asked "
                f"for; runs of one --workdir differ in {', '.join(OF_BACKBONE)} alone: choose "
                f"another --workdir, or repeat that config"
            )
    for key in sorted({*data, *trained_on}):
        if not same(data.get(key), trained_on.get(key)):
            raise UserError(
                f"{path} was trained on other data: {key} is {trained_on.get(key)!r}, but "
                f"{data.get(key)!r} in config.data.dir; choose another --workdir, or repeat that "
                f"data"
            )


def remaining(inventory: Inventory, runs: Sequence[PlannedRun]) -> list[int]:
    """Return the indices of the runs without a result, each run once."""
    known = [result.values for result in inventory.results]
    left: list[int] = []
    for i, planned in enumerate(runs):
        if not any(same(planned.values, values) for values in known):
            known.append(planned.values)
            left.append(i)
    return left


def check_start(run: Run, inventory: Inventory) -> None:
    """Raise `UserError` if `config.init` holds other weights than the runs that began with it."""
    init = run.config.init
    begun = [result for result in inventory.results if result.values["init"] == init]
    if init == "random" or not begun:
        return
    digest = lineage.digest(read_init(run)[0])
    if digest != begun[0].content["init"]:
        raise UserError(
            f"config.init {init} holds other weights (digest {digest}) than {begun[0].path} "
            f"started from (digest {begun[0].content['init']}); put those back, or choose another "
            f"--workdir"
        )


def complete_run(place: epath.Path, planned: PlannedRun, data: Mapping[str, Any]) -> None:
    """Train what remains of a run, and write its result."""

    def choose() -> list[Any]:
        runs, values = survey(place, planned, data).runs, planned.values
        own = [path for path, flat in runs.items() if same(read_values(flat), values)]
        used = {path.stem for path in _listed(place / RESULTS)}
        used |= {folder.name for folder in _listed(place / RUNS)}
        free = (name for name in _names(planned.name) if name not in used)
        return [own[0] if own else str(place / RUNS / next(free)), list(runs)]

    folder, donors = from_primary(choose)
    began = time.perf_counter()
    train(planned.config, folder, donors)
    trained = time.perf_counter()
    strategy = planned.config.strategy

    def opened() -> tuple[Run, Any]:
        run = open_run(planned.config, epath.Path(folder))
        return run, finished_variables(run.workdir, strategy, run.identity)[0]

    run, variables = sync_call(opened)
    seconds = {"training": round(trained - began, 1)}
    content = measure_run(run, variables, seconds)
    seconds["measuring"] = round(time.perf_counter() - trained, 1)

    def keep() -> None:
        weights: dict[str, str] = {}
        for _, result in finished_stages(run.workdir, strategy):
            weights |= result["weights"]
        images, init = lineage.read(run.workdir)
        about = {
            "config": planned.values,
            "data": run.data_summary,
            "lineage": images.digest,
            "init": init,
            "weights": weights,
        }
        name = epath.Path(folder).name
        write_json(place / RESULTS / f"{name}.json", {**about, **content}, indent=1)

    from_primary(keep)


def _names(name: str) -> Iterable[str]:
    yield name
    yield from (f"{name}_{number}" for number in itertools.count(2))
