"""A model's result for one film, as Python users get it and as predictions.csv shows it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from agcnn_jax.data.coordinates import heat_map_on_film, to_original_pixels
from agcnn_jax.inference.answers import BranchAnswer

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """What a model says about one film; the properties are of its last branch, fusion if it has it.

    Attributes:
        name: of the file; "" for an array.
        findings: the labels that are findings.
        branches: the answer of each branch, the last one last.
        width: of the film in pixels.
        height: of the film in pixels.
        film: the film as it was read, uint8 `[H, W]`. `python -m agcnn_jax.predict` keeps a smaller
            copy to draw, or no pixels.
        input_box: the attended region, int32 `[4]`, in pixels of the model's input; None where no
            local branch reads a crop.
        input_heat_map: float32 `[s, s]` in 0..1, in pixels of the model's input.
        input_size: side s of the model's input in pixels.
        stored_size: side in pixels to which the model resizes a film before it crops the centre.
        distance: of the film from those that the model knows, by its pooled features: above 1 it is
            farther than 99 % of validation images; None where the calibration knows no features.
        synthetic: the model was trained on synthetic images; pictures say so.
    """

    name: str
    findings: tuple[str, ...]
    branches: Mapping[str, BranchAnswer]
    width: int
    height: int
    film: np.ndarray
    input_box: np.ndarray | None
    input_heat_map: np.ndarray
    input_size: int
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
    def box(self) -> tuple[int, int, int, int] | None:
        """The attended region, xmin, ymin, xmax, ymax, half-open, in pixels of the film.

        None where no local branch reads a crop.
        """
        return self._box(self.width, self.height)

    def _box(self, width: int, height: int) -> tuple[int, int, int, int] | None:
        if self.input_box is None:
            return None
        boxes, sizes = self.input_box[None], np.array([[width, height]])
        corners = to_original_pixels(boxes, self.input_size, self.stored_size, sizes)
        xmin, ymin, xmax, ymax = corners[0].tolist()
        return xmin, ymin, xmax, ymax

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

        height, width = self.film.shape
        return overlay(
            self.film,
            self.heat_map,
            self._box(width, height),
            name=self.name,
            branch=self.branch,
            answer=self.branches[self.branch],
            findings=self.findings,
            distance=self.distance if self.unlike else None,
            synthetic=self.synthetic,
        )

    def __repr__(self) -> str:
        top = sorted(self.findings, key=lambda finding: -self.probability[finding])[:3]
        said = ", ".join(f"{finding} {self.probability[finding]:.3f}" for finding in top)
        return f"Result({self.name!r}, {self.branch}: {said} ...)"
