"""The figure of a localisation: boxes found at rising demands, and the pointing game."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from agcnn_jax.evaluation.figures.style import (
    LEGEND_BELOW,
    TEXT_SIZE,
    TITLE_SIZE,
    heading,
    panel_grid,
)
from agcnn_jax.evaluation.files.table import plain_name
from agcnn_jax.evaluation.localisation.tables import NAMES
from agcnn_jax.evaluation.scoring.cohort import Cohort
from agcnn_jax.evaluation.scoring.localisation import WAYS, Localisation
from agcnn_jax.metrics.localisation import IOU_THRESHOLDS

# What looks at the image in colour, the controls in grey.
_STYLES = dict(
    zip(
        WAYS,
        (
            ("#000000", "-", "o"),
            ("#0072B2", "--", "s"),
            ("#D55E00", ":", "^"),
            ("0.55", "-", "x"),
            ("0.55", "--", "+"),
            ("0.55", ":", "v"),
            ("0.55", "-.", "D"),
        ),
        strict=True,
    )
)


def overlap_figure(localisation: Localisation, cohort: Cohort) -> Figure:
    """Draw the share of boxes found at each intersection over union, one panel per finding."""
    of_tau = localisation.scores[localisation.tau]

    def draw(axes: Axes, finding: str) -> None:
        for way in reversed(WAYS):  # what looks at the image lies above the controls
            if finding in of_tau[way]:
                color, line, _ = _STYLES[way]
                shares = np.asarray(of_tau[way][finding].iou[0])
                label = NAMES[way]
                axes.plot(IOU_THRESHOLDS, shares, line, color=color, linewidth=1.4, label=label)
        axes.set(ylim=(-0.03, 1.03), xticks=(0.1, 0.3, 0.5, 0.7))

    findings = list(localisation.counts)
    return panel_grid(
        findings,
        draw,
        titles=[f"{plain_name(f)} ({localisation.counts[f].boxes:,})" for f in findings],
        axis_labels=("Intersection over union above", "Share of annotated boxes found"),
        title=f"{heading('Localisation', cohort, _counts(localisation))}; boxes in brackets",
        legend="below",
    )


def _counts(localisation: Localisation) -> str:
    total = localisation.total
    return f"{total.boxes:,} boxes in {total.images:,} images of {total.patients:,} patients"


def pointing_figure(localisation: Localisation, cohort: Cohort) -> Figure:
    """Draw the pointing game: each finding's share of hits, with intervals, per way."""
    findings = list(localisation.counts)
    figure = Figure(figsize=(7.2, 0.75 * len(findings) + 1.9), layout="constrained")
    axes = figure.subplots()
    of_tau = localisation.scores[localisation.tau]
    for place, finding in enumerate(findings):
        for offset, way in zip(np.linspace(-0.32, 0.32, len(WAYS)), WAYS, strict=True):
            if finding not in of_tau[way]:
                continue
            value, low, high = (float(part) for part in of_tau[way][finding].pointing)
            color, _, marker = _STYLES[way]
            y = place + offset
            axes.plot((low, high), (y, y), color=color, linewidth=1)
            axes.plot(value, y, marker, color=color, ms=4.5)
        if place:
            axes.axhline(place - 0.5, color="0.9", linewidth=0.8)
    names = [f"{plain_name(f)} ({localisation.counts[f].images:,})" for f in findings]
    axes.set_yticks(range(len(findings)), names, fontsize=TEXT_SIZE)
    axes.set(xlim=(-0.02, 1.02), ylim=(len(findings) - 0.5, -0.5))
    axes.tick_params(axis="x", labelsize=TEXT_SIZE)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("Share of images whose point lies in an annotated box", fontsize=TITLE_SIZE)
    figure.suptitle(
        f"{heading('Pointing game', cohort, _counts(localisation))}; images in brackets",
        fontsize=12,
    )
    handles = [
        Line2D([], [], color=color, linestyle="", marker=marker, label=NAMES[way])
        for way, (color, _, marker) in _STYLES.items()
    ]
    figure.legend(handles=handles, **LEGEND_BELOW)
    return figure
