"""Algorithm 1 of the paper: the stages in order, each from the best of the one before."""

from __future__ import annotations

import ml_collections
from etils import epath

from agcnn_jax.training import settings
from agcnn_jax.training.experiment import Experiment, open_experiment
from agcnn_jax.training.initial import initial_variables
from agcnn_jax.training.parallel import check_batch_size
from agcnn_jax.training.schedule import make_schedule
from agcnn_jax.training.stage import read_result, train_stage
from agcnn_jax.training.strategies import stages


def train(config: ml_collections.ConfigDict, workdir: str) -> None:
    """Train all stages, or what is left of them.

    Args:
        config: see `configs/common.py`.
        workdir: where the run writes; what it holds already is continued.

    Raises:
        UserError: for anything in the config, the data or the workdir that cannot be used.
    """
    settings.check_config(config)
    experiment = open_experiment(config, epath.Path(workdir).resolve())
    check_batches(experiment)
    variables = initial_variables(experiment)
    settings.keep_config(config, experiment.workdir, experiment.data_summary)

    plan = stages(config.strategy)
    if all(read_result(experiment.workdir, stage) for stage in plan):
        print(f"training in {workdir} is complete: nothing left to do")
        return
    print(describe(experiment))
    for stage in plan:
        variables = train_stage(experiment, stage, variables)
    print(f"training in {workdir} is complete")


def check_batches(experiment: Experiment) -> None:
    """Raise `UserError` unless all batches can be filled and shared by the devices."""
    for stage in stages(experiment.config.strategy):
        batch_size = make_schedule(experiment, stage).batch_size
        check_batch_size(experiment.mesh, batch_size, f"config.batch_size of stage {stage.name}")
    check_batch_size(experiment.mesh, experiment.config.eval_batch_size, "config.eval_batch_size")


def describe(experiment: Experiment) -> str:
    """Say in two lines what is about to be trained on what."""
    config, split = experiment.config, experiment.split
    return (
        f"AG-CNN with {config.backbone}, strategy {config.strategy}, on {experiment.mesh.size} "
        f"device(s), into {experiment.workdir}\n"
        f"{experiment.records.provenance}: {len(split.train)} images to train on, "
        f"{len(split.validation)} to validate, {len(split.test)} to test; protocol "
        f"{split.protocol}, {split.shared_patients} test patients also occur in training"
    )
