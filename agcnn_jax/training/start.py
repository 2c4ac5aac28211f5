"""What a run starts from: recorded when it first starts, and compared whenever it resumes."""

from __future__ import annotations

import dataclasses

from agcnn_jax.models.agcnn import Variables
from agcnn_jax.run import lineage, saved_config
from agcnn_jax.run.experiment import Experiment
from agcnn_jax.run.lineage import Lineage, Overlap
from agcnn_jax.run.stage_results import has_started
from agcnn_jax.run.strategies import branches_before, stages
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.training.init_weights import initial_variables, read_init


@dataclasses.dataclass(frozen=True)
class Start:
    """What a run starts from.

    Attributes:
        variables: of all branches; their backbones are random if no stage has yet to start from
            those in `config.init`.
        init: digest of the weights in `config.init`; None if that is random.
        lineage: what everything that the run trains will have seen.
        tested: how much of the test subset that is.
    """

    variables: Variables
    init: str | None
    lineage: Lineage
    tested: Overlap


def needs_init(experiment: Experiment) -> bool:
    """Tell whether a stage has yet to start from the backbones in `config.init`."""
    strategy = experiment.config.strategy
    return any(
        {"global", "local"} & set(stage.branches) - set(branches_before(strategy, stage))
        and not has_started(experiment.workdir, stage)
        for stage in stages(strategy)
    )


def check_init(experiment: Experiment, digest: str | None) -> None:
    """Refuse weights in `config.init`, by their digest, that the run did not start from."""
    _, started_from = lineage.read(experiment.workdir)
    if digest != started_from:
        raise UserError(
            f"config.init is {experiment.config.init!r}, whose weights (digest {digest}) are "
            f"others than --workdir {experiment.workdir} was started from (digest "
            f"{started_from}); put those back, or choose another --workdir"
        )


def open_start(experiment: Experiment, needed: bool) -> Start:
    """Read what a run starts from, and compare it with what it started from before.

    Args:
        experiment: see `Experiment`.
        needed: see `needs_init`; if not, `config.init` need no longer exist.

    Raises:
        UserError: if `config.init` holds no weights, weights that do not fit, other weights than
            the run started from, or weights that were trained on images of the test subset; or if
            the workdir holds stages without a config.
    """
    config, workdir, split = experiment.config, experiment.workdir, experiment.split
    records = experiment.records
    begun = saved_config.read_config(workdir) is not None
    init = read_init(experiment) if needed or not begun else None
    digest = init.digest if init else None
    if begun:
        seen, started_from = lineage.read(workdir)
        if init is not None:
            check_init(experiment, digest)
        digest = started_from
    elif any(has_started(workdir, stage) for stage in stages(config.strategy)):
        raise UserError(
            f"--workdir {workdir} holds trained stages without the config.json that says how; put "
            f"that back, or choose another --workdir"
        )
    else:
        seen = lineage.lineage_of(
            records.collection, records.image_ids[split.train], records.patient_ids[split.train]
        ).joined(init.lineage if init else lineage.NOTHING)
    tested = seen.overlap(
        records.collection, records.image_ids[split.test], records.patient_ids[split.test]
    )
    if tested.images:
        raise UserError(
            f"config.init is {config.init!r}, which was trained on {tested.images} of the "
            f"{len(split.test)} images of the test subset; start from other weights, or test on "
            f"other images, with config.data.protocol and its split_seed or lists"
        )
    return Start(initial_variables(experiment, init), digest, seen, tested)
