"""Algorithm 1 of the paper: the stages in order, each from the best of the one before."""

from __future__ import annotations

import contextlib
import uuid

import ml_collections
import numpy as np

from agcnn_jax.run import lineage, saved_config
from agcnn_jax.run.agreement import describe_run
from agcnn_jax.run.config import check_config
from agcnn_jax.run.experiment import Experiment, open_experiment
from agcnn_jax.run.lineage import digest
from agcnn_jax.run.stage_results import finished_stages, trained_from_what_is_gone
from agcnn_jax.run.strategies import stages
from agcnn_jax.runtime.compilation_cache import keep_compilations
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.preemption import stop_requests
from agcnn_jax.runtime.processes import (
    exchange,
    from_primary,
    is_primary,
    process_share,
    require_agreement,
    sync_call,
)
from agcnn_jax.runtime.storage import absolute, checkpoint_place, delete, exists, write_json
from agcnn_jax.runtime.workdir_lock import lock_workdir
from agcnn_jax.training.batches import check_batches
from agcnn_jax.training.stage import train_stage
from agcnn_jax.training.start import Start, check_init, needs_init, open_start


def train(config: ml_collections.ConfigDict, workdir: str) -> None:
    """Train all stages, or what is left of them.

    Args:
        config: see `configs/common.py`.
        workdir: where the run writes; what it holds already is continued.

    Raises:
        UserError: for anything in the config, the data or the workdir that cannot be used.
        Stopped: if SIGTERM came; everything is saved. Or if another training goes on in `workdir`.
    """
    with stop_requests() as stop_requested, contextlib.ExitStack() as held:
        experiment = sync_call(lambda: prepare(config, workdir))
        require_agreement(lambda: describe_run(config, experiment.data_summary))
        needed = from_primary(lambda: needs_init(experiment))
        start = sync_call(lambda: open_start(experiment, needed))
        require_agreement(
            lambda: {
                "weights in config.init": digest(start.variables),
                "what they were trained on": start.lineage.digest,
            }
        )
        plan = stages(config.strategy)
        # Before the lock, which a workdir that is no longer writable cannot take.
        if from_primary(
            lambda: len(finished_stages(experiment.workdir, config.strategy)) == len(plan)
        ):
            if is_primary():
                print(f"training in {workdir} is complete: nothing left to do", flush=True)
            return
        held.enter_context(lock_workdir(experiment.workdir, config.peer_timeout, stop_requested))
        claim(config, experiment, start)
        if is_primary():
            print(describe(experiment, start), flush=True)
        variables = start.variables
        for stage in plan:
            variables = train_stage(experiment, stage, variables, stop_requested)
    if is_primary():
        print(f"training in {workdir} is complete")


def prepare(config: ml_collections.ConfigDict, workdir: str) -> Experiment:
    """Check the config and open what it names."""
    check_config(config)
    place = checkpoint_place(workdir)
    # Before anything else goes there: a workdir out of reach is to be named as such.
    saved_config.read_config(place)
    keep_compilations()
    experiment = open_experiment(config, place)
    check_batches(experiment)
    saved_config.compare_config(config, place, experiment.data_summary)
    return experiment


def claim(config: ml_collections.ConfigDict, experiment: Experiment, start: Start) -> None:
    """Record or compare what the run is made from, and check that all processes see the workdir.

    Raises:
        UserError: if the workdir belongs to another run, or lies on a disk of one host.
    """
    workdir = experiment.workdir

    def keep() -> None:
        if saved_config.read_config(workdir) is None:
            # Before the config: a workdir that has one has the rest.
            lineage.keep(workdir, start.lineage, start.init)
        else:
            # Another training may have begun the run while this one waited.
            check_init(experiment, start.init)
        saved_config.keep_config(config, workdir, experiment.data_summary)

    from_primary(keep)
    if process_share()[1] == 1:
        return
    # A new name, which no host can remember as missing or from an earlier run.
    mark = absolute(str(workdir / from_primary(lambda: f".shared-{uuid.uuid4().hex}")))
    from_primary(lambda: write_json(mark, {}))
    seen = exchange(sync_call(lambda: exists(mark)))
    from_primary(lambda: delete(mark))
    if not all(seen):
        raise UserError(
            f"process {seen.index(False)} does not see what process 0 writes to --workdir "
            f"{workdir}; give a folder that all hosts share, or gs://BUCKET/PATH"
        )


def describe(experiment: Experiment, start: Start) -> str:
    """Say in a few lines what is about to be trained on what."""
    config, split = experiment.config, experiment.split
    patients = len(np.unique(experiment.records.patient_ids[split.test]))
    orphans = trained_from_what_is_gone(experiment.workdir, config.strategy)
    warning = (
        f"\n{' and '.join(orphans)} began with a stage that is not there any more: refused later "
        f"unless training that stage again ends with the very same weights"
    )
    return (
        f"AG-CNN with {config.backbone}, strategy {config.strategy}, on {experiment.mesh.size} "
        f"device(s), into {experiment.workdir}\n"
        f"{experiment.records.provenance}: {len(split.train)} images to train on, "
        f"{len(split.validation)} to validate, {len(split.test)} to test; "
        f"{split.in_words()}\n"
        f"of the test subset, {start.tested.in_words(len(split.test), patients)}"
        f"{warning if orphans else ''}"
    )
