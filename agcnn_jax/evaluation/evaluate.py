"""Evaluation of a model, such as a trained run: predictions, tables, figures and report."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import ml_collections
import numpy as np
from etils import epath

from agcnn_jax.config import saved as saved_config
from agcnn_jax.evaluation.asked_config import read_run_config
from agcnn_jax.evaluation.auc.table_one import subsets_of
from agcnn_jax.evaluation.auc.table_text import as_text
from agcnn_jax.evaluation.results import write_results
from agcnn_jax.evaluation.results_directory import results_directory
from agcnn_jax.evaluation.scoring.cohort import describe_cohort
from agcnn_jax.evaluation.scoring.films import show_films
from agcnn_jax.evaluation.scoring.flow import data_flow
from agcnn_jax.evaluation.scoring.localisation import localise
from agcnn_jax.evaluation.scoring.overlap import check_overlap
from agcnn_jax.evaluation.scoring.references import Setting
from agcnn_jax.evaluation.scoring.scored import ScoredImages, columns_of, scored_images
from agcnn_jax.evaluation.scoring.validation import Validated, validate
from agcnn_jax.models.agcnn import BRANCHES, Variables
from agcnn_jax.run import lineage
from agcnn_jax.run.lineage import Lineage, Overlap, digest
from agcnn_jax.run.run import Run, open_run
from agcnn_jax.run.stage_results import digests, finished_variables
from agcnn_jax.runtime.compilation_cache import keep_compilations
from agcnn_jax.runtime.devices import check_batch_size, replicate
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.processes import check_agreement, from_primary, is_primary, sync_call
from agcnn_jax.runtime.storage import checkpoint_place
from agcnn_jax.training.predict_step import make_predict_step
from agcnn_jax.training.prediction import predict

SUBSETS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Subject:
    """The model that an evaluation scores.

    Attributes:
        variables: of the branches to score, in host memory.
        outputs: the label of each output; the data need not have all of them.
        seen: what it was trained on.
        name: the option that names it, for messages.
        setting: how it was trained, to find the paper's run; None when not known.
        settings: for the report.
        directory: where the results go; None for a folder of the run, see `results_directory`.
        notes: lines for the table.
    """

    variables: Variables
    outputs: tuple[str, ...]
    seen: Lineage
    name: str
    setting: Setting | None
    settings: Mapping[str, Any]
    directory: epath.Path | None = None
    notes: tuple[str, ...] = ()


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
    check_subset(split)
    directory = checkpoint_place(workdir)
    run_config = sync_call(lambda: read_run_config(config, directory, overrides))
    run = sync_call(lambda: open_evaluated_run(run_config, directory, overrides))
    check_agreement(lambda: saved_config.describe_run(run_config, run.data_summary))
    loaded, _ = sync_call(lambda: finished_variables(directory, run_config.strategy, run.identity))
    check_agreement(lambda: {"--split": split, "weights in --workdir": digest(loaded)})
    attention = run_config.attention
    subject = Subject(
        variables=loaded,
        outputs=run.records.labels,
        seen=sync_call(lambda: lineage.read(directory)[0]),
        name=f"--workdir {directory}",
        setting=Setting(
            run_config.strategy,
            attention.statistic,
            attention.tau,
            run_config.local_input,
            attention.crop_from,
        ),
        settings=run_config.to_dict(),
    )
    return score(run, subject, split, include_trained)


def check_subset(split: str) -> None:
    """Raise `UserError` unless `--split` names a subset."""
    if split not in SUBSETS:
        raise UserError(f"--split is {split!r}; use one of {', '.join(SUBSETS)}")


def open_evaluated_run(
    config: ml_collections.ConfigDict, workdir: epath.Path, overrides: dict[str, Any]
) -> Run:
    """Open the data and the model of a run, and check that the data are those it was trained on."""
    run = open_evaluation(config, workdir)
    if "data.dir" not in overrides:
        saved_config.check_data(workdir, run.records.fingerprint, config.data.dir)
    return run


def open_evaluation(config: ml_collections.ConfigDict, workdir: epath.Path) -> Run:
    """Open data and model; `UserError` unless the devices can share a batch."""
    keep_compilations()
    run = open_run(config, workdir)
    check_batch_size(run.mesh, config.eval_batch_size, "config.eval_batch_size")
    return run


def score(run: Run, subject: Subject, split: str, include_trained: bool) -> str:
    """Predict a subset of the data and write the results; see `evaluate`."""
    indices = getattr(run.split, split)
    overlap = Overlap(
        **from_primary(
            lambda: asdict(
                check_overlap(run, subject.seen, subject.name, split, indices, include_trained)
            )
        )
    )
    variables = replicate(run.mesh, subject.variables)
    branches = tuple(branch for branch in BRANCHES if branch in variables["params"])
    crops = run.config.eval.crops
    step = make_predict_step(run.recipe, run.mesh, branches, crops, ("pooled",))

    def scored_on(chosen: np.ndarray, name: str = "validation") -> ScoredImages:
        pooled = name == "validation" and subject.directory is None
        made = predict(step, variables, run, chosen, name, pooled=pooled)
        return scored_images(run, subject.outputs, chosen, made)

    scored = scored_on(indices, split)
    validated = validate(
        run,
        subject.variables,
        subject.seen,
        is_run=subject.directory is None,
        scored=scored,
        split=split,
        predicted=scored_on,
    )
    return sync_call(
        lambda: report(run, subject, split, overlap, scored, validated) if is_primary() else ""
    )


def report(
    run: Run,
    subject: Subject,
    split: str,
    overlap: Overlap,
    scored: ScoredImages,
    validated: Validated,
) -> str:
    """Write the results of an evaluation and return its table."""
    config, records = run.config, run.records
    indices = getattr(run.split, split)
    cohort = describe_cohort(
        scored.label_matrix,
        scored.labels,
        scored.patient_ids,
        split=split,
        protocol=run.split.protocol,
        backbone=config.backbone,
        provenance=records.provenance,
        overlap=overlap,
        setting=subject.setting,
        images_digest=run.split.digests[split],
        crops=config.eval.crops,
    )
    table = write_results(
        subject.directory or results_directory(run, split),
        scored,
        cohort,
        localisation=localise(
            run, subject.variables, columns_of(subject.outputs, records.labels), indices
        ),
        films=show_films(run, subject.variables, indices, scored),
        flow=data_flow(run, split),
        subsets=subsets_of(run),
        settings=subject.settings,
        seen=subject.seen,
        weights=digests(subject.variables, subject.variables["params"]),
        notes=subject.notes,
        validated=validated,
    )
    return as_text(table)
