"""A picture of a film with what a model says about it."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patches import Patch, Rectangle

from agcnn_jax.evaluation.figures.style import LEGEND_BELOW, TEXT_SIZE, TITLE_SIZE
from agcnn_jax.evaluation.files.table import plain_name
from agcnn_jax.inference.answers import BranchAnswer

SHOWN = 5
"""Findings whose probabilities are drawn, the most probable ones."""

Box = tuple[int, int, int, int]

_BOX, _POSITIVE, _OTHER, _MARK = "#56B4E9", "#E69F00", "0.8", "#B00020"


class Picture(Figure):
    """A figure that notebooks show although it does not come from pyplot."""

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        self.savefig(picture, format="png", dpi=100)
        return picture.getvalue()


def overlay(
    film: np.ndarray,
    heat_map: np.ndarray,
    box: Box | None,
    *,
    name: str,
    branch: str,
    answer: BranchAnswer,
    findings: Sequence[str],
    distance: float | None,
    synthetic: bool,
) -> Figure:
    """Draw the film with its box, the same with the heat map, and the most probable findings.

    Bars are the model's probabilities; a mark is the calibrated one; a coloured bar is a finding
    that is called positive at Youden's threshold. The picture says if the film is unlike those that
    the model knows, and if the model was trained on synthetic images.

    Args:
        film: uint8 `[H, W]`.
        heat_map: float32 `[H, W]` in 0..1.
        box: the attended region, half-open pixels of the film; None for none.
        name: of the film.
        branch: whose answer it is.
        answer: its probabilities and decisions.
        findings: the labels that are findings.
        distance: of the film from those that the model knows; None if it is like them.
        synthetic: the model was trained on synthetic images.
    """
    figure = Picture(figsize=(9.6, 4.4), layout="constrained")
    plain, heat, bars = figure.subplots(1, 3, width_ratios=(1, 1, 0.9))
    for axes in (plain, heat):
        axes.imshow(film, cmap="gray", vmin=0, vmax=255)
        axes.set_axis_off()
        if box is not None:
            xmin, ymin, xmax, ymax = box
            # imshow puts the centre of pixel 0 at 0, so its edge is at -0.5.
            corner, size = (xmin - 0.5, ymin - 0.5), (xmax - xmin, ymax - ymin)
            axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=_BOX, linewidth=1.8))
    heat.imshow(heat_map, cmap="inferno", vmin=0, vmax=1, alpha=0.5)
    plain.set_title(_drawable(name), fontsize=TEXT_SIZE, loc="left", parse_math=False)
    heat.set_title("heat map", fontsize=TEXT_SIZE, loc="left")
    bars.set_title(f"{branch} branch", fontsize=TEXT_SIZE, loc="left")
    _draw_findings(bars, answer, findings)
    scale = ScalarMappable(Normalize(0, 1), "inferno")  # without the film under it
    bar = figure.colorbar(scale, ax=heat, location="bottom", shrink=0.8, aspect=30, pad=0.02)
    bar.set_ticks([0, 1], labels=["0", "1: looked at most"], fontsize=TEXT_SIZE)
    figure.legend(handles=_key(box, answer), **LEGEND_BELOW)
    if marks := _marks(distance, synthetic):
        figure.suptitle(marks, fontsize=TITLE_SIZE, color=_MARK, weight="bold")
    return figure


def _marks(distance: float | None, synthetic: bool) -> str:
    """Say what a reader must know before anything else; "" if there is nothing."""
    marks = ["SYNTHETIC: the model was trained on synthetic images"] if synthetic else []
    if distance is not None:
        marks.append(f"UNLIKE the films that the model knows (distance {distance:.2g})")
    return "\n".join(marks)


def _key(box: Box | None, answer: BranchAnswer) -> list[Artist]:
    """List what the box and the bars mean, for those that are drawn."""
    key: list[Artist] = []
    if box is not None:
        key.append(Patch(fill=False, edgecolor=_BOX, linewidth=1.8, label="attended region"))
    if any(value is not None for value in answer.decision["youden"].values()):
        key.append(Patch(color=_POSITIVE, label="called positive (Youden)"))
        key.append(Patch(color=_OTHER, label="called negative"))
    else:
        key.append(Patch(color=_OTHER, label="no threshold chosen"))
    return key


def _draw_findings(axes: Axes, answer: BranchAnswer, findings: Sequence[str]) -> None:
    probability = answer.probability
    top = sorted(findings, key=lambda finding: -probability[finding])[:SHOWN]
    places = range(len(top))
    colors = [_POSITIVE if answer.decision["youden"][finding] else _OTHER for finding in top]
    axes.barh(places, [probability[finding] for finding in top], color=colors, height=0.6)
    for place, finding in enumerate(top):
        name = _drawable(f"{plain_name(finding)} {probability[finding]:.3f}")
        axes.text(0.015, place, name, va="center", fontsize=TEXT_SIZE, parse_math=False)
        calibrated = answer.calibrated[finding]
        if calibrated is not None:
            # Below the bar's middle, where the name is.
            axes.plot([calibrated], [place + 0.36], marker="^", color="black", markersize=5)
    axes.set(xlim=(0, 1), ylim=(SHOWN - 0.4, -0.6), yticks=())
    if any(value is not None for value in answer.calibrated.values()):
        axes.set_xlabel("probability; ▲ calibrated", fontsize=TEXT_SIZE)
    else:
        axes.set_xlabel("probability, not calibrated", fontsize=TEXT_SIZE)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _drawable(text: str) -> str:
    """Replace characters that the font lacks, such as Chinese ones: matplotlib warns of each."""
    font = get_font(findfont(FontProperties()))
    return "".join(c if font.get_char_index(ord(c)) else "\N{WHITE SQUARE}" for c in text)
