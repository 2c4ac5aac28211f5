"""Running experiments: runs in, tables and figures out."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from agcnn_jax.evaluation.figures import encode
from agcnn_jax.evaluation.results_directory import replace_directory
from agcnn_jax.evaluation.table_text import as_markdown, as_text
from agcnn_jax.experiments import figures, summary, tables
from agcnn_jax.experiments.plan import OF_BACKBONE, Run
from agcnn_jax.experiments.result import Result
from agcnn_jax.experiments.runs import complete, open_data, survey
from agcnn_jax.models.registry import BACKBONES
from agcnn_jax.run import saved_config
from agcnn_jax.runtime.compilation_cache import keep_compilations
from agcnn_jax.runtime.processes import announce, from_primary, sync_call
from agcnn_jax.runtime.storage import checkpoint_place


def run_experiments(runs: Sequence[Run], workdir: str) -> None:
    """Complete the runs of each experiment in turn, then write and print its table.

    `UserError` as `train` raises it, or if the workdir holds runs of other experiments; `Stopped`
    on SIGTERM, with everything saved.
    """
    place = checkpoint_place(workdir)
    keep_compilations()
    data = sync_call(lambda: open_data(runs[0], place)).data_summary
    for name, of_experiment in itertools.groupby(runs, key=lambda run: run.experiment):
        wanted = list(of_experiment)
        complete(place, wanted)
        text = from_primary(functools.partial(_write, place, name, wanted, data))
        announce(f"\n{text}")


def _write(place: epath.Path, name: str, runs: Sequence[Run], data: Mapping[str, Any]) -> str:
    """Write an experiment's folder and return its tables as text."""
    groups = collect(survey(place, runs[0], data).results, runs)
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
                file = f"{name}_{backbone.replace(' ', '_').replace('/', '_')}.{kind}"
                (folder / file).write_bytes(encode(figure, kind))
    texts = "\n\n".join(as_text(table) for table in shown)
    return f"{texts}\n\nwritten to {place / name}"


def collect(results: Sequence[Result], runs: Sequence[Run]) -> dict[str, summary.Group]:
    """Find the results of the runs, and of the same runs with another backbone.

    Returns:
        Per backbone, named with its start if there are several, the results of each row.
    """
    kinds: dict[tuple[Any, ...], dict[str, list[Result]]] = {}
    for run in runs:
        wanted = _without_backbone(run.values)
        for result in results:
            if saved_config.same(_without_backbone(result.values), wanted):
                kind = tuple(result.values[key] for key in ("backbone", "init"))
                of_row = kinds.setdefault(kind, {}).setdefault(run.row, [])
                of_row.append(result)
    order = list(BACKBONES)
    backbones = [kind[0] for kind in kinds]
    return {
        backbone if backbones.count(backbone) == 1 else f"{backbone} from {init}": kinds[kind]
        for kind in sorted(kinds, key=lambda kind: (order.index(kind[0]), kind[1]))
        for backbone, init in [kind]
    }


def _without_backbone(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in OF_BACKBONE}
