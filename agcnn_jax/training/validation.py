"""Scoring a stage on the validation subset, which picks its best checkpoint (Section III-C)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from agcnn_jax.metrics.auc import auc, mean_auc
from agcnn_jax.models.agcnn import Variables, merge_branches
from agcnn_jax.run.experiment import Experiment
from agcnn_jax.run.strategies import Stage
from agcnn_jax.training.prediction import make_predict_step, predict
from agcnn_jax.training.steps import TrainState


def make_validation(
    experiment: Experiment, stage: Stage, frozen: Variables
) -> Callable[[TrainState, Callable[[], None]], dict[str, Any]]:
    """Make the function that scores the trained branches on the validation subset.

    It takes a state, and a function to call after every batch; see `predict`. It returns
    `val_auc_mean` of the branch that selects the stage's best checkpoint, `val_auc_findings`, the
    number of findings in that mean, and `val_auc_mean_<branch>`; a mean over no finding is None. It
    raises `FloatingPointError` if a probability is not finite.
    """
    step = make_predict_step(experiment.recipe, experiment.mesh, stage.branches)
    records, indices = experiment.records, experiment.split.validation
    labels = records.label_matrix[indices]

    def validate(state: TrainState, after_batch: Callable[[], None]) -> dict[str, Any]:
        prediction = predict(
            step,
            merge_branches(frozen, state.variables),
            experiment,
            indices,
            "validation",
            after_batch,
        )
        if not all(np.isfinite(scores).all() for scores in prediction.probabilities.values()):
            raise FloatingPointError("validation probabilities are not finite")
        means = {
            branch: mean_auc(
                {
                    records.labels[column]: auc(labels[:, column], scores[:, column])
                    for column in records.finding_columns
                }
            )
            for branch, scores in prediction.probabilities.items()
        }
        selecting = means[stage.selects_by]
        return {
            "val_auc_mean": selecting.mean,
            "val_auc_findings": selecting.present,
            **{f"val_auc_mean_{branch}": one.mean for branch, one in means.items()},
        }

    return validate
