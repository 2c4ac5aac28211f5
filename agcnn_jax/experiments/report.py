"""Running experiments: runs in, tables and figures out."""

from __future__ import annotations

import functools
import itertools
import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from agcnn_jax.config.saved import same
from agcnn_jax.evaluation.figures.style import encode
from agcnn_jax.evaluation.files.table import as_markdown, as_text
from agcnn_jax.evaluation.results_directory import replace_directory
from agcnn_jax.experiments import figures, summary, tables
from agcnn_jax.experiments.plan import OF_BACKBONE, PlannedRun, plan
from agcnn_jax.experiments.result import RunResult
from agcnn_jax.experiments.runs import check_start, complete_run, keep_base, remaining, survey
from agcnn_jax.models.registry import BACKBONES
from agcnn_jax.run.run import open_run
from agcnn_jax.runtime.compilation_cache import keep_compilations
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.processes import announce, check_agreement, from_primary, sync_call
from agcnn_jax.runtime.storage import checkpoint_place, reported


def run_experiments(runs: Sequence[PlannedRun], workdir: str) -> None:
    """Complete the runs of each experiment in turn, then write and print its table.

    `UserError` as `train` raises it, or if the workdir holds runs of other experiments; `Stopped`
    on SIGTERM, with everything saved.
    """
    place = checkpoint_place(workdir)
    keep_compilations()
    check_agreement(lambda: {"experiments": [planned.name for planned in runs]})
    run = sync_call(lambda: open_run(runs[0].config, place))
    data = run.data_summary

    def begin() -> list[int]:
        inventory = survey(place, runs[0], data)
        for name in dict.fromkeys(planned.experiment for planned in runs):
            _check_folder(place / name)
        left = remaining(inventory, runs)
        if left:
            check_start(run, inventory)
        keep_base(place, runs[0])
        return left

    left = from_primary(begin)
    seconds: list[float] = []
    for name, of_experiment in itertools.groupby(enumerate(runs), key=lambda x: x[1].experiment):
        for i, planned in of_experiment:
            if i in left:
                count = f"run {len(seconds) + 1} of {len(left)}"
                announce(f"{count}: {planned.name}{_time_left(seconds, len(left))}")
                began = time.perf_counter()
                complete_run(place, planned, data)
                seconds.append(time.perf_counter() - began)
        text = from_primary(functools.partial(_write, place, name, runs[0], data))
        announce(f"\n{text}")


def _time_left(seconds: Sequence[float], runs: int) -> str:
    """Estimate how long the remaining runs take, from the seconds of those that are done."""
    if not seconds:
        return ""
    minutes = sum(seconds) / len(seconds) * (runs - len(seconds)) / 60
    return f", about {minutes:.0f} min left" if minutes >= 1 else ", less than 1 min left"


def _check_folder(folder: epath.Path) -> None:
    """Raise `UserError` if a table would replace a folder that holds something else."""
    with reported(folder, "read"):
        used = folder.exists() and not (folder / "table.json").exists() and any(folder.iterdir())
    if used:
        raise UserError(f"{folder} holds other files than a table; move them, or delete it")


def _write(place: epath.Path, name: str, planned: PlannedRun, data: Mapping[str, Any]) -> str:
    """Write an experiment's folder, with all rows and seeds that have results; return the text."""
    groups = collect(survey(place, planned, data).results, plan([name], planned.asked, seeds=1))
    content = summary.summarise(name, groups)
    shown = [table for backbone in groups for table in tables.as_tables(content, backbone)]
    with replace_directory(place / name) as folder:
        text = json.dumps(content, indent=1, ensure_ascii=False)
        (folder / "table.json").write_text(text + "\n", encoding="utf-8")
        markdown = "\n".join(as_markdown(table) for table in shown)
        (folder / "table.md").write_text(markdown, encoding="utf-8")
        (folder / "table.csv").write_text(tables.as_csv(content), encoding="utf-8")
        for backbone in groups:
            figure = figures.draw(content, backbone)
            for kind in ("png", "pdf"):
                file = f"{name}_{re.sub(r'[^A-Za-z0-9_.=-]+', '_', backbone)}.{kind}"
                (folder / file).write_bytes(encode(figure, kind))
    texts = "\n\n".join(as_text(table) for table in shown)
    return f"{texts}\n\nwritten to {place / name}"


def collect(results: Sequence[RunResult], rows: Sequence[PlannedRun]) -> dict[str, summary.Group]:
    """Find the results of an experiment's rows, of all seeds and backbones.

    Returns:
        Per backbone, named with the other keys in which it has several, the results of each row.
    """
    kinds: dict[tuple[Any, ...], dict[str, list[RunResult]]] = {}
    for planned in rows:
        for result in results:
            if same(_common(result.values), _common(planned.values)):
                kind = tuple(str(result.values.get(key)) for key in OF_BACKBONE)
                kinds.setdefault(kind, {}).setdefault(planned.row, []).append(result)
    sorted_kinds = sorted(kinds, key=lambda kind: (list(BACKBONES).index(kind[0]), kind[1:]))
    return {
        _kind_name(kind, sorted_kinds): {
            row: sorted(of_row, key=lambda result: result.values["seed"])
            for row, of_row in kinds[kind].items()
        }
        for kind in sorted_kinds
    }


def _kind_name(kind: tuple[str, ...], kinds: Sequence[tuple[str, ...]]) -> str:
    """Name a backbone, with the keys in which others of that backbone differ."""
    rivals = [other for other in kinds if other[0] == kind[0]]
    differing = [i for i in range(1, len(kind)) if len({other[i] for other in rivals}) > 1]
    return " ".join([kind[0], *(f"{OF_BACKBONE[i]}={kind[i]}" for i in differing)])


def _common(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in ("seed", *OF_BACKBONE)}
