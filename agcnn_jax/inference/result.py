"""What a model says about one film."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit

from agcnn_jax.data.coordinates import heat_map_on_film
from agcnn_jax.metrics.operating_points import RULES
from agcnn_jax.run.calibration import Calibration, Choice

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NO_CHOICE = Choice(None, dict.fromkeys(RULES))


class NoAnswerError(Exception):
    """The model's outputs for a film are no answer; the message says why."""


@dataclasses.dataclass(frozen=True)
class BranchAnswer:
    """What one branch says about one film; each value is by label.

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


def answers_of(
    logits: Mapping[str, np.ndarray], labels: Sequence[str], calibration: Calibration | None
) -> dict[str, BranchAnswer]:
    """Turn a film's logits `{branch: [C]}` into answers; outputs without a name are left out.

    Without a calibration, `calibrated` and the decisions are None for every label.

    Raises:
        NoAnswerError: an output is infinite or no number.
    """
    if not all(np.isfinite(values).all() for values in logits.values()):
        raise NoAnswerError("the model's answer is no finite number")
    return {
        branch: _answer(
            {label: float(x) for label, x in zip(labels, values, strict=True) if label},
            calibration.branches.get(branch, {}) if calibration else {},
        )
        for branch, values in logits.items()
    }


def _answer(logit: Mapping[str, float], choices: Mapping[str, Choice]) -> BranchAnswer:
    chosen = {label: choices.get(label, _NO_CHOICE) for label in logit}

    def calibrated(label: str, x: float) -> float | None:
        line = chosen[label].platt
        return None if line is None else float(expit(line.intercept + line.slope * x))

    def called(rule: str, label: str, x: float) -> bool | None:
        threshold = chosen[label].thresholds[rule]
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


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """What a model says about one film; the properties are of its last branch, fusion if it has it.

    Attributes:
        name: of the file; "" for an array.
        findings: the labels that are findings.
        branches: the answer of each branch, the last one last.
        film: the film as it was read, uint8 `[H, W]`.
        box: the attended region, xmin, ymin, xmax, ymax, half-open, in pixels of the film; None
            where no local branch reads a crop.
        input_heat_map: float32 `[s, s]` in 0..1, in pixels of the model's input.
        stored_size: side in pixels to which the model resizes a film before it crops the centre.
        distance: of the film from those that the model knows, by its pooled features: above 1 it is
            farther than 99 % of validation images; None where the calibration knows no features.
        synthetic: the model was trained on phantoms; pictures say so.
    """

    name: str
    findings: tuple[str, ...]
    branches: Mapping[str, BranchAnswer]
    film: np.ndarray
    box: tuple[int, int, int, int] | None
    input_heat_map: np.ndarray
    stored_size: int
    distance: float | None = None
    synthetic: bool = False

    @property
    def unlike(self) -> bool | None:
        """Whether the film is unlike those that the model knows; None if that is not known."""
        return None if self.distance is None else self.distance > 1

    @property
    def branch(self) -> str:
        """Name of the last branch."""
        return list(self.branches)[-1]

    @property
    def probability(self) -> Mapping[str, float]:
        """The probability of each label as the model gives it, 0 to 1."""
        return self.branches[self.branch].probability

    @property
    def calibrated(self) -> Mapping[str, float | None]:
        """The calibrated probability of each label, 0 to 1; None where there is none."""
        return self.branches[self.branch].calibrated

    @property
    def decision(self) -> Mapping[str, bool | None]:
        """Whether the film is called positive at Youden's threshold; None without one."""
        return self.branches[self.branch].decision["youden"]

    @functools.cached_property
    def heat_map(self) -> np.ndarray:
        """The heat map in pixels of the film, float32 `[H, W]`; 0 in the margin not looked at."""
        height, width = self.film.shape
        return heat_map_on_film(self.input_heat_map, self.stored_size, width, height)

    def show(self) -> Figure:
        """Draw the film, heat map, box and most probable findings; needs no display.

        Returns:
            A matplotlib figure, which notebooks show and `savefig` writes.
        """
        from agcnn_jax.inference.overlay import overlay

        return overlay(self)

    def __repr__(self) -> str:
        top = sorted(self.findings, key=lambda finding: -self.probability[finding])[:3]
        said = ", ".join(f"{finding} {self.probability[finding]:.3f}" for finding in top)
        return f"Result({self.name!r}, {self.branch}: {said} ...)"
