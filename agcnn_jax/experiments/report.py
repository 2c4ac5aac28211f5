"""Running experiments: runs in, tables and figures out."""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
from etils import epath

from agcnn_jax.config import saved as saved_config
from agcnn_jax.evaluation.auc.table_text import as_markdown, as_text
from agcnn_jax.evaluation.figures.figures import encode
from agcnn_jax.evaluation.results_directory import replace_directory
from agcnn_jax.experiments import figures, summary, tables
from agcnn_jax.experiments.clock import Clock
from agcnn_jax.experiments.plan import OF_BACKBONE, PlannedRun, plan
from agcnn_jax.experiments.result import Result
from agcnn_jax.experiments.runs import (
    complete_run,
    keep_base,
    refuse_new_start,
    remaining,
    survey,
)
from agcnn_jax.models.registry import BACKBONES
from agcnn_jax.run.run import open_run
from agcnn_jax.runtime.compilation_cache import keep_compilations
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.processes import (
    announce,
    check_agreement,
    from_primary,
    is_primary,
    sync_call,
)
from agcnn_jax.runtime.storage import checkpoint_place, reported


def run_experiments(runs: Sequence[PlannedRun], workdir: str) -> None:
    """Complete the runs of each experiment in turn, then write and print its table.

    `UserError` as `train` raises it, or if the workdir holds runs of other experiments; `Stopped`
    on SIGTERM, with everything saved.
    """
    place = checkpoint_place(workdir)
    keep_compilations()
    check_agreement(lambda: {"experiments": [run.name for run in runs]})
    experiment = sync_call(lambda: open_run(runs[0].config, place))
    data = experiment.data_summary

    def begin() -> list[int]:
        known = survey(place, runs[0], data)
        for name in dict.fromkeys(run.experiment for run in runs):
            _refuse_other_files(place / name)
        left = remaining(known, runs)
        if left:
            refuse_new_start(experiment, known)
        keep_base(place, runs[0])
        return left

    left = from_primary(begin)
    # Only the primary announces how much time is left.
    known = survey(place, runs[0], data).runs if is_primary() else {}
    clock, number = Clock(experiment, [runs[i] for i in left], known), 0
    for name, of_experiment in itertools.groupby(enumerate(runs), key=lambda x: x[1].experiment):
        for i, run in of_experiment:
            if i in left:
                announce(f"run {number + 1} of {len(left)}: {run.name}{clock.left(number)}")
                clock.start()
                complete_run(place, run, data)
                clock.stop(number)
                number += 1
        asked = runs[0].asked
        text = from_primary(functools.partial(_write, place, name, asked, runs[0], data))
        announce(f"\n{text}")


def _refuse_other_files(folder: epath.Path) -> None:
    """Raise `UserError` if a table would replace a folder that holds something else."""
    with reported(folder, "read"):
        used = folder.exists() and not (folder / "table.json").exists() and any(folder.iterdir())
    if used:
        raise UserError(f"{folder} holds other files than a table; move them, or delete it")


def _write(
    place: epath.Path,
    name: str,
    asked: ml_collections.ConfigDict,
    run: PlannedRun,
    data: Mapping[str, Any],
) -> str:
    """Write an experiment's folder, with all rows and seeds that have results; return the text."""
    groups = collect(survey(place, run, data).results, plan([name], asked, seeds=1))
    content = summary.summarise(name, groups, data["provenance"])
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


def collect(results: Sequence[Result], rows: Sequence[PlannedRun]) -> dict[str, summary.Group]:
    """Find the results of an experiment's rows, of all seeds and backbones.

    Returns:
        Per backbone, named with the other keys in which it has several, the results of each row.
    """
    kinds: dict[tuple[Any, ...], dict[str, list[Result]]] = {}
    for row in rows:
        wanted = _without(row.values, "seed", *OF_BACKBONE)
        for result in results:
            if saved_config.same(_without(result.values, "seed", *OF_BACKBONE), wanted):
                kind = tuple(str(result.values.get(key)) for key in OF_BACKBONE)
                kinds.setdefault(kind, {}).setdefault(row.row, []).append(result)
    order = list(BACKBONES)
    sorted_kinds = sorted(kinds, key=lambda kind: (order.index(kind[0]), kind[1:]))
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


def _without(values: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in keys}
