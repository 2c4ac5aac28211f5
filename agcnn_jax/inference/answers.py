"""The answers of a model's branches about one film: probabilities, calibrated ones, decisions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import expit

from agcnn_jax.metrics.operating_points import RULES
from agcnn_jax.run.calibration import Calibration, Choice

_NO_CHOICE = Choice(None, dict.fromkeys(RULES))


@dataclasses.dataclass(frozen=True)
class BranchAnswer:
    """One branch's answers about one film, by label.

    Attributes:
        logit: before the sigmoid of Eq. 1.
        probability: as the model gives it, 0 to 1 (Eq. 1); compare it with others of its label
            only, since each label has a scale of its own.
        calibrated: the probability by Platt's numbers, which on images like the run's validation
            images is the share that has the finding; None where they could not be fitted.
        decision: by each of `operating_points.RULES`, True if the film is called positive; None
            where no threshold was chosen.
    """

    logit: Mapping[str, float]
    probability: Mapping[str, float]
    calibrated: Mapping[str, float | None]
    decision: Mapping[str, Mapping[str, bool | None]]


def branch_answers(
    logits: Mapping[str, np.ndarray], labels: Sequence[str], calibration: Calibration | None
) -> dict[str, BranchAnswer]:
    """Turn a film's logits `{branch: [C]}`, which are finite, into answers.

    Outputs without a name are left out. Without a calibration, `calibrated` and the decisions are
    None for every label.
    """
    return {
        branch: _answer(
            {label: float(x) for label, x in zip(labels, values, strict=True) if label},
            calibration.branches.get(branch, {}) if calibration else {},
        )
        for branch, values in logits.items()
    }


def _answer(logit: Mapping[str, float], choices: Mapping[str, Choice]) -> BranchAnswer:
    choice = {label: choices.get(label, _NO_CHOICE) for label in logit}

    def calibrated(label: str, x: float) -> float | None:
        line = choice[label].platt
        return None if line is None else float(expit(line.intercept + line.slope * x))

    def called(rule: str, label: str, x: float) -> bool | None:
        threshold = choice[label].thresholds[rule]
        return None if threshold is None else x >= threshold

    return BranchAnswer(
        logit=logit,
        # In float32, as an evaluation computes them.
        probability={label: float(expit(np.float32(x))) for label, x in logit.items()},
        calibrated={label: calibrated(label, x) for label, x in logit.items()},
        decision={
            rule: {label: called(rule, label, x) for label, x in logit.items()} for rule in RULES
        },
    )
