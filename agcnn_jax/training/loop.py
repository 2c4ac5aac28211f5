"""Algorithm 1 of the paper: the stages in order, each from the best of the stage before."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

import ml_collections
import numpy as np

from agcnn_jax.config.check import check_config
from agcnn_jax.config.saved import check_unchanged, describe_run, read_config
from agcnn_jax.config.strategies import Stage, stages
from agcnn_jax.models.agcnn import Variables
from agcnn_jax.run import lineage
from agcnn_jax.run.run import Run, open_run
from agcnn_jax.run.stage_results import finished_stages, orphaned_stages
from agcnn_jax.run.takeover import take_over
from agcnn_jax.runtime.compilation_cache import keep_compilations
from agcnn_jax.runtime.preemption import StopRequest, stop_requests
from agcnn_jax.runtime.processes import (
    announce,
    check_agreement,
    check_shared,
    from_primary,
    sync_call,
)
from agcnn_jax.runtime.storage import checkpoint_place
from agcnn_jax.runtime.workdir_lock import lock_workdir
from agcnn_jax.training.schedule import check_batches
from agcnn_jax.training.stage import train_stage
from agcnn_jax.training.start import Start, keep_start, open_start


def train(config: ml_collections.ConfigDict, workdir: str, donors: Sequence[str] = ()) -> None:
    """Train all stages in `workdir`, or those that remain of the run that lies there.

    Stages that other runs, in the workdirs `donors`, have trained to the same end are taken over.
    `UserError` for anything in the config, the data or the workdir that cannot be used; `Stopped`
    on SIGTERM, with everything saved, or if another training goes on in `workdir`.
    """
    with open_training(config, workdir, donors) as training:
        variables = training.variables
        for stage in training.stages:
            variables = train_stage(
                training.run, stage, variables, training.lineage, training.stop_requested
            )
    remark = "" if training.stages else ": nothing left to do"
    announce(f"training in {workdir} is complete{remark}")


@dataclasses.dataclass(frozen=True)
class Training:
    """An open training, the same in all processes of the run."""

    run: Run
    stages: tuple[Stage, ...]  # to train, or only to load; none if all have finished
    variables: Variables  # of all branches, before the first stage
    lineage: str  # digest of what the run's weights have seen
    stop_requested: StopRequest


@contextlib.contextmanager
def open_training(
    config: ml_collections.ConfigDict, workdir: str, donors: Sequence[str] = ()
) -> Iterator[Training]:
    """Open all that a run is made from, and keep other trainings out of its workdir.

    Takes over the stages of `donors`, and holds back SIGTERM and Ctrl-C; see `train`.
    """
    with stop_requests() as stop_requested:
        run, begun = sync_call(lambda: open_workdir(config, workdir))
        check_agreement(lambda: describe_run(config, run.data_summary))
        start = open_start(run, begun)
        check_agreement(
            lambda: {
                "weights in config.init": lineage.digest(start.variables),
                "what they were trained on": start.lineage.digest,
            }
        )
        planned, digest = stages(config.strategy), start.lineage.digest
        training = Training(run, planned, start.variables, digest, stop_requested)
        # A finished run needs no lock, and may lie where nobody can write.
        if from_primary(lambda: len(finished_stages(run.workdir, config.strategy))) == len(planned):
            yield dataclasses.replace(training, stages=())
            return
        with lock_workdir(run.workdir, config.peer_timeout, stop_requested):
            from_primary(lambda: keep_start(run, start))
            check_shared(run.workdir)
            announce(describe_training(run, start))
            for sentence in from_primary(lambda: take_over(run, digest, start.init, donors)):
                announce(sentence)
            yield training


def open_workdir(config: ml_collections.ConfigDict, workdir: str) -> tuple[Run, bool]:
    """Open a run to be trained in `workdir`, and tell whether it has begun there.

    Nothing is written but what JAX compiles. `UserError` if the config, the data or the workdir
    cannot be used, or the workdir has begun with others.
    """
    check_config(config)
    place = checkpoint_place(workdir)
    # First, so that a workdir out of reach is named before anything else in it.
    saved = read_config(place)
    keep_compilations()
    run = open_run(config, place)
    check_batches(run)
    if saved is not None:
        check_unchanged(config, run.data_summary, saved, place)
    return run, saved is not None


def describe_training(run: Run, start: Start) -> str:
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
    if unlabelled := split.unlabelled_images:
        lines.append(
            "films of the training subset that are left out, since none of their labels is known: "
            f"{unlabelled:,}"
        )
    if orphans := orphaned_stages(workdir, config.strategy):
        lines.append(
            f"{' and '.join(orphans)} began with a stage that is no longer there: refused later "
            f"unless training that stage again ends with the very same weights"
        )
    return "\n".join(lines)
