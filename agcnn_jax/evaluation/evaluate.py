"""Evaluation of a model, such as a trained run: predictions, tables, figures and report."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np
from etils import epath

from agcnn_jax.config.saved import check_data, describe_run, read_data
from agcnn_jax.data.labels import MISSING
from agcnn_jax.data.records import Records
from agcnn_jax.data.splits import SUBSETS, WHOLE, Split, whole
from agcnn_jax.evaluation.asked_config import read_run_config
from agcnn_jax.evaluation.auc.aucs import aucs_table
from agcnn_jax.evaluation.files.table import as_text
from agcnn_jax.evaluation.results_directory import results_directory
from agcnn_jax.evaluation.scoring.cohort import (
    Cohort,
    check_overlap,
    describe_cohort,
    external_note,
)
from agcnn_jax.evaluation.scoring.evaluation import EvaluatedModel, compute
from agcnn_jax.evaluation.scoring.films import show_films
from agcnn_jax.evaluation.scoring.localisation import score_localisation
from agcnn_jax.evaluation.scoring.matches import (
    Match,
    match_findings,
    match_notes,
    own_labels,
    scored_pairs,
)
from agcnn_jax.evaluation.scoring.references import Setting
from agcnn_jax.evaluation.scoring.scored import ScoredImages, scored_images
from agcnn_jax.evaluation.scoring.subsets import count_subset, data_flow, subsets_of
from agcnn_jax.evaluation.scoring.validation import (
    Plan,
    plan_validation,
    validate,
)
from agcnn_jax.evaluation.write import write_evaluation
from agcnn_jax.models.agcnn import BRANCHES, Variables
from agcnn_jax.run import lineage
from agcnn_jax.run.lineage import Lineage, Overlap, digest
from agcnn_jax.run.run import Run, open_run, split_of
from agcnn_jax.run.stage_results import digests, finished_variables
from agcnn_jax.runtime.compilation_cache import keep_compilations
from agcnn_jax.runtime.devices import check_batch_size, replicate
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.processes import check_agreement, from_primary, is_primary, sync_call
from agcnn_jax.runtime.storage import checkpoint_place
from agcnn_jax.training.predict_step import make_predict_step
from agcnn_jax.training.prediction import predict


@dataclasses.dataclass(frozen=True)
class Subject:
    """The model that an evaluation scores.

    Attributes:
        variables: of the branches to score, in host memory.
        matches: of its outputs with the labels of the data; see `match_findings`.
        trained: what it was trained on.
        name: the option that names it, for messages.
        settings: for the report.
        setting: how it was trained, to find the paper's run; None when not known.
        directory: where the results go; None for a folder of the run, see `results_directory`.
        notes: lines for the table.
        external: the data are of another collection than the run's own, and nothing is fitted.
        listed: the results list the matches.
    """

    variables: Variables
    matches: tuple[Match, ...]
    trained: Lineage
    name: str
    settings: Mapping[str, Any]
    setting: Setting | None = None
    directory: epath.Path | None = None
    notes: tuple[str, ...] = ()
    external: bool = False
    listed: bool = False


def evaluate(
    config: ml_collections.ConfigDict,
    workdir: str,
    overrides: dict[str, Any],
    split: str | None = None,
    include_trained: bool = False,
    maps: Sequence[str] = (),
) -> str:
    """Score a run's best checkpoints on a subset and write `<workdir>/eval/<split>/`.

    Scores every branch whose stage has finished. The run's `config.json` says how it was trained;
    `config` must be the config that it was made with. Results of a split or data set other than
    the run's go to a separate folder, see `results_directory`. Another collection, which
    `config.data.dir` names, is an external validation: nothing is fitted there.

    Args:
        config: the requested config.
        workdir: of the run.
        overrides: the config's keys that were given on the command line, with their values.
        split: `train`, `validation`, `test`, or `all`, which needs no split; by default `test`,
            and `all` of another collection.
        include_trained: allow images that the run was trained on in subsets other than `train`.
        maps: pairs of a finding of the run and a label of the data to score; see `match_findings`.

    Returns:
        The AUC table as text; empty in all processes but the primary, which writes the results.

    Raises:
        UserError: if nothing is trained, the run was made with another config, or it was trained
            on images of the subset.
    """
    check_subset(split)
    directory = checkpoint_place(workdir)
    run, subject = open_agreed(
        lambda: open_evaluated_run(config, directory, overrides, split),
        lambda run: load_trained(run, maps),
        {"--split": split, "--map": list(maps)},
    )
    split = split or (WHOLE if run.split.all is not None else "test")
    return score(run, subject, split, include_trained)


def check_subset(split: str | None) -> None:
    """Raise `UserError` unless `--split` names a subset, or is not given."""
    known = (*SUBSETS, WHOLE)
    if split not in (None, *known):
        raise UserError(f"--split is {split!r}; use one of {', '.join(known)}")


def open_agreed(
    open_data: Callable[[], Run], load: Callable[[Run], Subject], asked: Mapping[str, Any]
) -> tuple[Run, Subject]:
    """Open what is scored in all processes; `UserError` if it is not the same in all of them."""
    run = sync_call(open_data)
    check_agreement(lambda: {**describe_run(run.config, run.data_summary), **asked})
    subject = sync_call(lambda: load(run))
    option = subject.name.split()[0]
    check_agreement(lambda: {f"weights in {option}": digest(subject.variables)})
    return run, subject


def open_evaluated_run(
    config: ml_collections.ConfigDict,
    workdir: epath.Path,
    overrides: dict[str, Any],
    split: str | None = None,
) -> Run:
    """Open the data and the model of a run, and check that the data are those it was trained on.

    Data that `overrides` name may be others. They are not split where `split` says so, or by
    default where they are of another collection.
    """
    run_config = read_run_config(config, workdir, overrides)

    def choose_split(records: Records) -> Split:
        if split == WHOLE or (split is None and is_external(records, workdir)):
            return whole(records)
        return split_of(run_config.data, records)

    run = open_evaluation(run_config, workdir, choose_split)
    if "data.dir" not in overrides:
        check_data(workdir, run.records.fingerprint, run_config.data.dir)
    return run


def is_external(records: Records, workdir: epath.Path) -> bool:
    """Tell whether data are of another collection than a run's own."""
    return not is_own(records, workdir) and (
        records.collection not in lineage.own_collections(workdir)
    )


def is_own(records: Records, workdir: epath.Path) -> bool:
    """Tell whether data are those that a run was trained on."""
    return bool(read_data(workdir)["fingerprint"] == records.fingerprint)


def load_trained(run: Run, maps: Sequence[str] = ()) -> Subject:
    """Load the weights of a run's finished stages, and match their outputs with the data.

    `UserError` if no stage has finished, the images are stored in another size than those that the
    run was trained on, `maps` are of its own labels, or as in `match_findings`.
    """
    config, attention = run.config, run.config.attention
    if maps and is_own(run.records, run.workdir):
        # The results and thresholds of its own findings would be those of others.
        raise UserError(
            f"--map {maps[0]}: these data have the run's own labels; leave it out, or name other "
            f"data with --config.data.dir"
        )
    # The outputs are named by the data that the run was trained on, not by those to score.
    identity = {key: value for key, value in run.identity.items() if key != "labels"}
    variables, saved = finished_variables(run.workdir, config.strategy, identity)
    trained, labels = lineage.read(run.workdir)[0], run.records.labels
    external, name = is_external(run.records, run.workdir), f"--workdir {run.workdir}"
    matches = match_findings(saved["labels"], labels, maps, name=name, one_set=not external)
    side = saved["image_size"]
    if side != run.records.image_size:
        raise UserError(
            f"{config.data.dir}: its images are {run.records.image_size} pixels wide, and {name} "
            f"was trained on images of {side}; prepare the data again with --image_size {side}"
        )
    return Subject(
        variables=variables,
        matches=matches,
        trained=trained,
        name=name,
        notes=match_notes(matches, labels),
        external=external,
        listed=external or matches != own_labels(labels),
        settings=config.to_dict(),
        setting=Setting(
            config.strategy,
            attention.statistic,
            attention.tau,
            config.local_input,
            attention.crop_from,
        ),
    )


def open_evaluation(
    config: ml_collections.ConfigDict,
    workdir: epath.Path,
    choose_split: Callable[[Records], Split] | None = None,
) -> Run:
    """Open data and model, see `open_run`; `UserError` unless the devices can share a batch."""
    keep_compilations()
    run = open_run(config, workdir, choose_split)
    check_batch_size(run.mesh, config.eval_batch_size, "config.eval_batch_size")
    return run


def score(run: Run, subject: Subject, split: str, include_trained: bool) -> str:
    """Predict a subset of the data and write the results; see `evaluate`."""
    indices = getattr(run.split, split)
    overlap = sync_call(
        lambda: check_overlap(run, subject.trained, subject.name, split, indices, include_trained)
    )
    weights = digests(subject.variables, subject.variables["params"])
    is_run = subject.directory is None
    predicted = make_predictor(run, subject)
    scored = predicted(indices, split)
    plan = Plan(
        *from_primary(
            lambda: plan_validation(
                run, subject.trained, scored, split, weights, is_run, subject.external
            )
        )
    )
    validation = scored if split == "validation" else None
    if plan.source == "predicted" and validation is None:
        validation = predicted(run.split.validation, "validation")

    def write() -> str:
        cohort = cohort_of(run, subject, split, overlap, scored)
        validated = validate(run, weights, plan, validation, is_run)
        evaluation = compute(scored, cohort, validated)
        external = [external_note(cohort, subject.trained)] if subject.external else []
        pairs = scored_pairs(subject.matches)
        evaluation = dataclasses.replace(
            evaluation,
            model=EvaluatedModel(subject.settings, subject.trained, weights),
            localisation=score_localisation(
                run,
                subject.variables,
                {pair.ours: pair.output for pair in pairs},
                indices,
                {pair.ours: pair.theirs for pair in pairs},
            ),
            films=show_films(run, subject.variables, indices, scored),
            flow=data_flow(run, split, (scored.label_matrix != MISSING).any(axis=1)),
            subsets=[count_subset(subset) for subset in subsets_of(run)],
            notes=(*external, *subject.notes),
            matches=subject.matches if subject.listed else (),
            external=subject.external,
        )
        folder = subject.directory or results_directory(run, split, subject.external)
        write_evaluation(evaluation, folder)
        return as_text(aucs_table(evaluation))

    return sync_call(lambda: write() if is_primary() else "")


def make_predictor(run: Run, subject: Subject) -> Callable[[np.ndarray, str], ScoredImages]:
    """Make the function that predicts records, int64 `[N]`, of a subset with all branches.

    It keeps the pooled features of a run's validation images, whose spread goes to its calibration.
    """
    variables = replicate(run.mesh, subject.variables)
    branches = tuple(branch for branch in BRANCHES if branch in variables["params"])
    step = make_predict_step(run.recipe, run.mesh, branches, run.config.eval.crops, ("pooled",))

    def predicted(indices: np.ndarray, name: str) -> ScoredImages:
        pooled = name == "validation" and subject.directory is None
        predictions = predict(step, variables, run, indices, name, pooled=pooled)
        return scored_images(run, subject.matches, indices, predictions)

    return predicted


def cohort_of(
    run: Run, subject: Subject, split: str, overlap: Overlap, scored: ScoredImages
) -> Cohort:
    """Describe the scored images of a prepared data set."""
    return describe_cohort(
        scored.label_matrix,
        scored.labels,
        scored.patient_ids,
        split=split,
        protocol=None if split == WHOLE else run.split.protocol,
        backbone=run.config.backbone,
        provenance=run.records.provenance,
        synthetic=run.records.synthetic,
        overlap=overlap,
        setting=subject.setting,
        images_digest=run.split.digests[split],
        crops=run.config.eval.crops,
        collection=run.records.collection,
    )
