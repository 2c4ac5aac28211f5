"""Stages of other runs that a run takes over instead of training them again.

A stage depends on the keys of the config that it reads, on the data, and on the stages before it.
Many runs agree in these: one global stage serves every tau, every statistic and every strategy that
begins with it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from agcnn_jax.config.keys import FIXED, KEYS, SCORED, flatten, is_read
from agcnn_jax.config.saved import read_config, same
from agcnn_jax.config.strategies import Stage, branches_before, stages
from agcnn_jax.models.agcnn import BRANCHES
from agcnn_jax.run import lineage
from agcnn_jax.run.run import Run
from agcnn_jax.run.stage_results import has_started, load_best, read_result, stage_directory
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.storage import is_remote, read_json, reported, write_bytes

BRANCHWISE = ("batch_size", "epochs", "learning_rate", "reference_batch_size")
"""Keys with one value for all branches, or one for each."""


def read_values(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys, of a flat config, that a run's results depend on."""
    return {
        key: value
        for key, value in config.items()
        if KEYS[key].changes in (FIXED, SCORED) and is_read(key, config)
    }


def stage_values(config: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Return what the first `count` stages of a run depend on, of all keys of a flat config."""
    planned = stages(config["strategy"])[:count]
    values: dict[str, Any] = {**read_values(config), "strategy": [s.branches for s in planned]}
    used = {branch for stage in planned for branch in stage.branches}
    if used == {"global"}:
        # Nothing is attended to yet.
        values = {k: v for k, v in values.items() if k.split(".")[0] != "attention"}
        del values["local_input"]
    for key in set(BRANCHWISE) & set(values):
        each = tuple(values[key]) * (len(BRANCHES) // len(values[key]))
        values[key] = [each[BRANCHES.index(branch)] for branch in BRANCHES if branch in used]
    return values


def take_over(run: Run, seen: str, init: str | None, donors: Sequence[str]) -> list[str]:
    """Take over the finished stages of other runs that this run would train to the same end.

    Stages that the run has finished or begun stay as they are. With `batch_norm` device nothing is
    taken over: results depend on the number of devices, which no run records.

    Args:
        run: of the run; its config is in the workdir already.
        seen: digest of the run's lineage.
        init: digest of the weights in `config.init`; None if that is random.
        donors: workdirs of other runs; whatever does not agree is passed over.

    Returns:
        Sentences that say which stages were taken from where, and what was skipped as damaged.
    """
    workdir = run.workdir
    trained: dict[str, str] = {}
    said: list[str] = []
    if run.config.batch_norm == "device":
        return said
    places = [place for name in donors if (place := epath.Path(name)) != workdir]
    for count, stage in enumerate(stages(run.config.strategy), start=1):
        result = read_result(stage_directory(workdir, stage))
        if result is None:
            agreeing = [place for place in places if _agrees(run, place, init, count)]
            offers = [(p, _offered(run, p, stage, seen, trained)) for p in agreeing]
            result = _take_first(run, stage, offers, said)
            if result is None:
                break
        trained |= result["weights"]
    return said


def _take_first(
    run: Run,
    stage: Stage,
    offers: Sequence[tuple[epath.Path, dict[str, Any] | None]],
    said: list[str],
) -> dict[str, Any] | None:
    """Take over a stage from the first run whose checkpoint is sound; return the stage's result."""
    workdir = run.workdir
    begun = has_started(workdir, stage)
    for donor, result in offers:
        if result is None:
            continue
        # A copy to an object store that was cut short may lack nothing but the result.
        directory = stage_directory(workdir if begun else donor, stage)
        try:
            load_best(directory, stage, result, run.identity)
        except UserError as error:
            if not begun:
                said.append(f"stage {stage.name} is not taken over from {donor}: {error}")
            continue
        _copy(donor, workdir, stage, None if begun else result["best_step"])
        said.append(f"stage {stage.name} is taken over from {donor}")
        return result
    return None


def _agrees(run: Run, donor: epath.Path, init: str | None, count: int) -> bool:
    """Tell whether another run's first `count` stages were made as this run's would be."""
    theirs = read_config(donor)
    if theirs is None or len(stages(theirs.strategy)) < count:
        return False
    values = (stage_values(flatten(c.to_dict()), count) for c in (run.config, theirs))
    return (
        same(*values)
        and same(read_json(donor / "data.json"), run.data_summary)
        and lineage.read(donor)[1] == init
    )


def _offered(
    run: Run, donor: epath.Path, stage: Stage, seen: str, trained: Mapping[str, str]
) -> dict[str, Any] | None:
    """Return the result of another run's stage, if it started from the very same weights."""
    result = read_result(stage_directory(donor, stage))
    earlier = branches_before(run.config.strategy, stage)
    if result is None or result["lineage"] != seen:
        return None
    started_from = {branch: trained[branch] for branch in earlier}
    return result if result["started_from"] == started_from else None


def _copy(donor: epath.Path, workdir: epath.Path, stage: Stage, step: int | None) -> None:
    """Copy a stage with the checkpoint of a step, or its result alone."""
    source, target = stage_directory(donor, stage), stage_directory(workdir, stage)
    with reported(target, "written"):
        if step is not None and not is_remote(workdir):
            _copy_on_disk(source, target, f"checkpoints/{step}")
            return
        if step is not None:
            _upload_checkpoint(source, target, f"checkpoints/{step}")
        write_bytes(target / "result.json", (source / "result.json").read_bytes())


def _copy_on_disk(source: epath.Path, target: epath.Path, checkpoint: str) -> None:
    """Build the stage beside its place and rename it, so that all of it is there or nothing."""
    new = target.with_name(f".{target.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    shutil.copytree(source / checkpoint, new / checkpoint, copy_function=_link)
    shutil.copy2(source / "result.json", new)
    # A stage that has not begun may have left a folder without a checkpoint.
    shutil.rmtree(target, ignore_errors=True)
    os.rename(new, target)


def _upload_checkpoint(source: epath.Path, target: epath.Path, checkpoint: str) -> None:
    """Copy a checkpoint's files one by one, last that which tells orbax that all are there."""
    last = source / checkpoint / "commit_success.txt"
    for path in sorted(_files(source / checkpoint), key=lambda path: path == last):
        part = os.fspath(path)[len(os.fspath(source)) + 1 :]
        write_bytes(target / part, path.read_bytes())


def _files(folder: epath.Path) -> Iterator[epath.Path]:
    # The glob of etils 1.15 refuses ** in a bucket.
    for path in folder.iterdir():
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


def _link(source: str, target: str) -> None:
    # Checkpoints are never changed in place, so that both runs can own the same file.
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
