"""Algorithm 1 of the paper: the stages in order, each from the best of the stage before."""

from __future__ import annotations

from collections.abc import Sequence

import ml_collections
import numpy as np

from agcnn_jax.config import saved as saved_config
from agcnn_jax.config.check import check_config
from agcnn_jax.config.strategies import stages
from agcnn_jax.run import lineage
from agcnn_jax.run.run import Run, open_run
from agcnn_jax.run.stage_results import finished_stages, orphaned_stages
from agcnn_jax.run.takeover import take_over
from agcnn_jax.runtime.compilation_cache import keep_compilations
from agcnn_jax.runtime.preemption import stop_requests
from agcnn_jax.runtime.processes import (
    announce,
    from_primary,
    require_agreement,
    require_shared,
    sync_call,
)
from agcnn_jax.runtime.storage import checkpoint_place
from agcnn_jax.runtime.workdir_lock import lock_workdir
from agcnn_jax.training.schedule import check_batches
from agcnn_jax.training.stage import train_stage
from agcnn_jax.training.start import Start, keep_start, needs_init, open_start


def train(config: ml_collections.ConfigDict, workdir: str, donors: Sequence[str] = ()) -> None:
    """Train all stages in `workdir`, or those that remain of the run that lies there.

    Stages that other runs, in the workdirs `donors`, have trained to the same end are taken over.
    `UserError` for anything in the config, the data or the workdir that cannot be used; `Stopped`
    on SIGTERM, with everything saved, or if another training goes on in `workdir`.
    """
    with stop_requests() as stop_requested:
        run, start = open_training(config, workdir)
        place, planned = run.workdir, stages(config.strategy)
        # A finished run needs no lock, and may lie where nobody can write.
        if from_primary(lambda: len(finished_stages(place, config.strategy))) == len(planned):
            announce(f"training in {workdir} is complete: nothing left to do")
            return
        with lock_workdir(place, config.peer_timeout, stop_requested):
            from_primary(lambda: keep_start(run, start))
            require_shared(place)
            announce(describe(run, start))
            variables, seen = start.variables, start.lineage.digest
            for taken in from_primary(lambda: take_over(run, seen, start.init, donors)):
                announce(taken)
            for stage in planned:
                variables = train_stage(run, stage, variables, seen, stop_requested)
    announce(f"training in {workdir} is complete")


def open_training(config: ml_collections.ConfigDict, workdir: str) -> tuple[Run, Start]:
    """Open everything that a run is made from, the same in all its processes."""

    def prepare() -> Run:
        check_config(config)
        place = checkpoint_place(workdir)
        # First, so that a workdir out of reach is named before anything else in it.
        saved_config.read_config(place)
        keep_compilations()
        run = open_run(config, place)
        check_batches(run)
        saved_config.compare_config(config, place, run.data_summary)
        return run

    run = sync_call(prepare)
    require_agreement(lambda: saved_config.describe_run(config, run.data_summary))
    needed = from_primary(lambda: needs_init(run))
    start = sync_call(lambda: open_start(run, needed))
    require_agreement(
        lambda: {
            "weights in config.init": lineage.digest(start.variables),
            "what they were trained on": start.lineage.digest,
        }
    )
    return run, start


def describe(run: Run, start: Start) -> str:
    """Say in a few lines what is about to be trained on what."""
    config, split, workdir = run.config, run.split, run.workdir
    patients = len(np.unique(run.records.patient_ids[split.test]))
    lines = [
        f"AG-CNN with {config.backbone}, strategy {config.strategy}, on {run.mesh.size} "
        f"device(s), into {workdir} (config.json, parameters.txt)",
        f"{run.records.provenance}: {len(split.train)} images to train on, "
        f"{len(split.validation)} to validate, {len(split.test)} to test; {split.in_words()}",
        f"of the test subset, {start.tested.in_words(len(split.test), patients)}",
    ]
    if orphans := orphaned_stages(workdir, config.strategy):
        lines.append(
            f"{' and '.join(orphans)} began with a stage that is no longer there: refused later "
            f"unless training that stage again ends with the very same weights"
        )
    return "\n".join(lines)
