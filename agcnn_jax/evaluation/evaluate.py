"""Evaluation of a trained run: predictions, tables, figures and report."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import ml_collections
import numpy as np
from etils import epath

from agcnn_jax.evaluation.cohort import describe_cohort
from agcnn_jax.evaluation.coordinates import to_original_pixels
from agcnn_jax.evaluation.films import show_films
from agcnn_jax.evaluation.overlap import trained_overlap
from agcnn_jax.evaluation.references import Setting
from agcnn_jax.evaluation.results import ScoredImages, write_results
from agcnn_jax.evaluation.results_directory import results_directory
from agcnn_jax.models.agcnn import BRANCHES, Variables
from agcnn_jax.run import lineage, saved_config
from agcnn_jax.run.config import flatten, refuse_unread
from agcnn_jax.run.experiment import Experiment, open_experiment
from agcnn_jax.run.keys import FREE, KEYS, SCORED, TRAINED
from agcnn_jax.run.lineage import Overlap, digest
from agcnn_jax.run.stage_results import finished_variables
from agcnn_jax.runtime.compilation_cache import keep_compilations
from agcnn_jax.runtime.devices import check_batch_size, replicate
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.processes import from_primary, is_primary, require_agreement, sync_call
from agcnn_jax.runtime.storage import checkpoint_place
from agcnn_jax.training.prediction import Prediction, predict
from agcnn_jax.training.steps import make_predict_step

SUBSETS = ("train", "validation", "test")


def evaluate(
    config: ml_collections.ConfigDict,
    workdir: str,
    overrides: dict[str, Any],
    split: str = "test",
    include_trained: bool = False,
) -> str:
    """Score a run's best checkpoints on a subset and write `<workdir>/eval/<split>/`.

    Scores every branch whose stage has finished. The run's `config.json` says how it was trained;
    `config` must be the config that it was made with. Results of a split or data set other than
    the run's go to a separate folder, see `results_directory`.

    Args:
        config: the requested config.
        workdir: of the run.
        overrides: the config's keys that were given on the command line, with their values.
        split: `train`, `validation` or `test`.
        include_trained: allow images that the run was trained on in subsets other than `train`.

    Returns:
        The AUC table as text; empty in all processes but the primary, which writes the results.

    Raises:
        UserError: if nothing is trained, the run was made with another config, or it was trained
            on images of the subset.
    """
    if split not in SUBSETS:
        raise UserError(f"--split is {split!r}; use one of {', '.join(SUBSETS)}")
    directory = checkpoint_place(workdir)
    run_config = sync_call(lambda: read_run_config(config, directory, overrides))
    experiment = sync_call(lambda: open_evaluation(run_config, directory, overrides))
    require_agreement(lambda: saved_config.describe_run(run_config, experiment.data_summary))
    loaded, _ = sync_call(
        lambda: finished_variables(directory, run_config.strategy, experiment.identity)
    )
    require_agreement(lambda: {"--split": split, "weights in --workdir": digest(loaded)})
    indices = getattr(experiment.split, split)
    overlap = Overlap(
        **from_primary(lambda: asdict(trained_overlap(experiment, split, indices, include_trained)))
    )
    variables = replicate(experiment.mesh, loaded)
    branches = tuple(branch for branch in BRANCHES if branch in variables["params"])
    step = make_predict_step(experiment.recipe, experiment.mesh, branches)
    prediction = predict(step, variables, experiment, indices, split)
    table = sync_call(
        lambda: (
            report(experiment, split, indices, overlap, prediction, loaded) if is_primary() else ""
        )
    )
    return table


def open_evaluation(
    config: ml_collections.ConfigDict, workdir: epath.Path, overrides: dict[str, Any]
) -> Experiment:
    """Open the data and the model of a run, and check that the data are those it was trained on."""
    keep_compilations()
    experiment = open_experiment(config, workdir)
    if "data.dir" not in overrides:
        saved_config.check_data(workdir, experiment.records.fingerprint, config.data.dir)
    check_batch_size(experiment.mesh, config.eval_batch_size, "config.eval_batch_size")
    return experiment


def report(
    experiment: Experiment,
    split: str,
    indices: np.ndarray,
    overlap: Overlap,
    prediction: Prediction,
    variables: Variables,
) -> str:
    """Write the results of an evaluation and return its table."""
    config, records = experiment.config, experiment.records
    boxes = None
    if prediction.boxes is not None:
        boxes = to_original_pixels(
            prediction.boxes,
            config.input_size,
            records.image_size,
            np.stack([records.widths[indices], records.heights[indices]], axis=-1),
        )
    labels, patient_ids = records.label_matrix[indices], records.patient_ids[indices]
    scored = ScoredImages(
        image_ids=records.image_ids[indices],
        patient_ids=patient_ids,
        labels=records.labels,
        findings=records.findings,
        label_matrix=labels,
        probabilities=prediction.probabilities,
        logits=prediction.logits,
        boxes=boxes,
    )
    cohort = describe_cohort(
        labels,
        records.labels,
        patient_ids,
        split=split,
        protocol=experiment.split.protocol,
        backbone=config.backbone,
        provenance=records.provenance,
        overlap=overlap,
        setting=Setting(
            config.strategy, config.attention.statistic, config.attention.tau, config.local_input
        ),
        images_digest=experiment.split.digests[split],
    )
    return write_results(
        results_directory(experiment, split),
        scored,
        cohort,
        films=show_films(experiment, variables, indices, prediction),
        settings=config.to_dict(),
        seen=lineage.read(experiment.workdir)[0],
    )


def read_run_config(
    config: ml_collections.ConfigDict, workdir: epath.Path, overrides: dict[str, Any]
) -> ml_collections.ConfigDict:
    """Read the config of a run, with the overrides that an evaluation may change.

    Raises:
        UserError: if nothing was trained there, the run has another backbone, or an override
            contradicts how it was trained.
    """
    saved = saved_config.read_config(workdir)
    if saved is None:
        raise UserError(
            f"nothing is trained in --workdir {workdir}; train first: python train.py --config ..."
        )
    if saved.backbone != config.backbone:
        raise UserError(
            f"--workdir {workdir} was made with another config: backbone is "
            f"{config.backbone!r}, there {saved.backbone!r}; give the config that it was made with"
        )
    asked, trained = flatten(config.to_dict()), flatten(saved.to_dict())
    for key in overrides:
        changes = KEYS[key].changes
        if changes in (SCORED, FREE):
            with saved.unlocked():
                saved.update_from_flattened_dict({key: asked[key]})
        elif not saved_config.same(asked[key], trained[key]):
            if changes == TRAINED:
                raise UserError(f"--config.{key} has no effect on an evaluation; leave it out")
            raise UserError(
                f"--workdir {workdir} was made with another config: {key} is {asked[key]!r}, "
                f"there {trained[key]!r}; leave --config.{key} out, or evaluate another run"
            )
    refuse_unread(overrides, saved)
    return saved
