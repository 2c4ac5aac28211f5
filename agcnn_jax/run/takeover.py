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

from agcnn_jax.config.keys import flatten, read_values
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
    sentences: list[str] = []
    if run.config.batch_norm == "device":
        return sentences
    places = [place for name in donors if (place := epath.Path(name)) != workdir]
    for stage in stages(run.config.strategy):
        own = stage_directory(workdir, stage)
        result = read_result(own)
        begun = result is None and has_started(workdir, stage)
        for donor in places if result is None else ():
            offer = _offer(run, donor, stage, seen, init, trained)
            if offer is None:
                continue
            source = stage_directory(donor, stage)
            try:
                # A copy to an object store that was cut short may lack nothing but the result.
                load_best(own if begun else source, stage, offer, run.identity)
            except UserError as error:
                if not begun:
                    sentences.append(f"stage {stage.name} is not taken over from {donor}: {error}")
                continue
            _copy(source, own, None if begun else f"checkpoints/{offer['best_step']}")
            sentences.append(f"stage {stage.name} is taken over from {donor}")
            result = offer
            break
        if result is None:
            break
        trained |= result["weights"]
    return sentences


def _offer(
    run: Run,
    donor: epath.Path,
    stage: Stage,
    seen: str,
    init: str | None,
    trained: Mapping[str, str],
) -> dict[str, Any] | None:
    """Return the result of another run's stage, if it started from the very same weights."""
    if not _agrees(run, donor, init, stage.number):
        return None
    result = read_result(stage_directory(donor, stage))
    earlier = branches_before(run.config.strategy, stage)
    origin = {"lineage": seen, "started_from": {branch: trained[branch] for branch in earlier}}
    return result if result and {key: result[key] for key in origin} == origin else None


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


def _copy(source: epath.Path, target: epath.Path, checkpoint: str | None) -> None:
    """Copy the result of a stage, and its checkpoint if one is named."""
    with reported(target, "written"):
        if checkpoint and not is_remote(target):
            _copy_on_disk(source, target, checkpoint)
            return
        if checkpoint:
            # File by file, last that which tells orbax that all are there.
            last = source / checkpoint / "commit_success.txt"
            for path in sorted(_files(source / checkpoint), key=lambda path: path == last):
                part = os.fspath(path)[len(os.fspath(source)) + 1 :]
                write_bytes(target / part, path.read_bytes())
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
