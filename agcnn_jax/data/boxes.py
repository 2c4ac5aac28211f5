"""An annotated box of a finding."""

from __future__ import annotations

from typing import NamedTuple


class Box(NamedTuple):
    """A finding's half-open box `[xmin, xmax) x [ymin, ymax)` in pixels.

    `finding` is the index of its label in the table that the box belongs to.
    """

    finding: int
    xmin: float
    ymin: float
    xmax: float
    ymax: float

    def scaled(self, factor: float) -> Box:
        """Return the box in an image `factor` times as large."""
        return Box(self.finding, *(factor * side for side in self[1:]))
