"""Stages of other runs that a run takes over instead of training them again.

A stage depends on the keys of the config that it reads, on the data, and on the stages before it.
Many runs agree in these: one global stage serves every tau, every statistic and every strategy that
begins with it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from agcnn_jax.models.agcnn import BRANCHES
from agcnn_jax.run import lineage, saved_config
from agcnn_jax.run.config import flatten, is_read
from agcnn_jax.run.experiment import Experiment
from agcnn_jax.run.keys import FIXED, KEYS, SCORED
from agcnn_jax.run.stage_results import has_started, read_result, stage_directory
from agcnn_jax.run.strategies import Stage, branches_before, stages
from agcnn_jax.runtime.storage import is_remote, read_json, reported

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


def take_over(
    experiment: Experiment, seen: str, init: str | None, donors: Sequence[str]
) -> list[str]:
    """Take over the finished stages of other runs that this run would train to the same end.

    Stages that the run has finished or begun stay as they are.

    Args:
        experiment: of the run; its config is in the workdir already.
        seen: digest of the run's lineage.
        init: digest of the weights in `config.init`; None if that is random.
        donors: workdirs of other runs; whatever does not agree is passed over.

    Returns:
        What was taken from where, as words.
    """
    workdir, taken = experiment.workdir, []
    trained: dict[str, str] = {}
    places = [place for name in donors if (place := epath.Path(name)) != workdir]
    for count, stage in enumerate(stages(experiment.config.strategy), start=1):
        result = read_result(stage_directory(workdir, stage))
        if result is None:
            if has_started(workdir, stage):
                break
            for donor in places:
                if _agrees(experiment, donor, init, count) and (
                    result := _offered(experiment, donor, stage, seen, trained)
                ):
                    _copy(donor, workdir, stage, result["best_step"])
                    taken.append(f"stage {stage.name} is taken over from {donor}")
                    break
            else:
                break
        trained |= result["weights"]
    return taken


def _agrees(experiment: Experiment, donor: epath.Path, init: str | None, count: int) -> bool:
    """Tell whether another run's first `count` stages were made as this run's would be."""
    theirs = saved_config.read_config(donor)
    if theirs is None or len(stages(theirs.strategy)) < count:
        return False
    values = (stage_values(flatten(c.to_dict()), count) for c in (experiment.config, theirs))
    return (
        saved_config.same(*values)
        and saved_config.same(read_json(donor / "data.json"), experiment.data_summary)
        and lineage.read(donor)[1] == init
    )


def _offered(
    experiment: Experiment, donor: epath.Path, stage: Stage, seen: str, trained: Mapping[str, str]
) -> dict[str, Any] | None:
    """Return the result of another run's stage, if it started from the very same weights."""
    result = read_result(stage_directory(donor, stage))
    earlier = branches_before(experiment.config.strategy, stage)
    if result is None or result["lineage"] != seen:
        return None
    started_from = {branch: trained[branch] for branch in earlier}
    return result if result["started_from"] == started_from else None


def _copy(donor: epath.Path, workdir: epath.Path, stage: Stage, best_step: int) -> None:
    """Copy a stage with its best checkpoint; the result goes last. On a disk, files are linked."""
    source, target = stage_directory(donor, stage), stage_directory(workdir, stage)
    checkpoint = f"checkpoints/{best_step}"
    with reported(target, "written"):
        if is_remote(workdir):
            for path in (source / checkpoint).glob("**/*"):
                if path.is_file():
                    part = os.fspath(path)[len(os.fspath(source)) + 1 :]
                    (target / part).write_bytes(path.read_bytes())
        else:
            new = target.with_name(f".{stage.name}.new")
            shutil.rmtree(new, ignore_errors=True)
            shutil.copytree(source / checkpoint, new, copy_function=_link)
            (target / "checkpoints").mkdir(parents=True, exist_ok=True)
            os.rename(new, target / checkpoint)
        (target / "result.json").write_bytes((source / "result.json").read_bytes())


def _link(source: str, target: str) -> None:
    # Checkpoints are never changed in place, so that both runs can own the same file.
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
