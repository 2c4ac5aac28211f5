"""Panels of single images, as in the paper's Figs. 1, 3 and 7: attention and top findings."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from agcnn_jax.evaluation.figures.style import TEXT_SIZE, TITLE_SIZE
from agcnn_jax.evaluation.files.table import plain_name
from agcnn_jax.evaluation.scoring.films import Answer, Films

_BOX, _TRUE_BOX = "#56B4E9", "#F0E442"
_PRESENT, _ABSENT = "#E69F00", "0.8"
SHOWN = 10
"""Findings whose probabilities a panel shows, the most probable ones."""


def films_figure(films: Films, title: str = "") -> Figure:
    """Draw one row per image: film with boxes, heat map, mask, crop, and the ten top findings.

    Args:
        films: what to draw.
        title: above the grid; it must say if the images are synthetic.
    """
    count = len(films.images)
    figure = Figure(figsize=(11.4, 2.55 * count + (0.45 if title else 0)), layout="constrained")
    grid = figure.subplots(count, 5, squeeze=False, width_ratios=(1, 1, 1, 1, 1.05))
    for i, (film, overlay, mask, crop, bars) in enumerate(grid):
        true_boxes = films.true_boxes[i] if films.true_boxes is not None else ()
        for axes in (film, overlay):
            axes.imshow(films.images[i], cmap="gray", vmin=0, vmax=255)
        overlay.imshow(films.heat_maps[i], cmap="inferno", vmin=0, vmax=1, alpha=0.5)
        mask.imshow(films.masks[i], cmap="gray", vmin=0, vmax=1)
        crop.imshow(films.crops[i], cmap="gray", vmin=0, vmax=255)
        for axes in (film, overlay, mask):
            _draw_box(axes, films.boxes[i], _BOX, "-", "")
        for name, box in true_boxes:
            _draw_box(film, box, _TRUE_BOX, "--", plain_name(name))
        film.set_title(films.titles[i], fontsize=TEXT_SIZE, loc="left")
        if i == 0:
            overlay.set_title("heat map", fontsize=TITLE_SIZE)
            mask.set_title("above the threshold", fontsize=TITLE_SIZE)
            what = "read by the local branch" if films.read else "attended region"
            crop.set_title(what, fontsize=TITLE_SIZE)
            bars.set_title(f"{films.branch} branch", fontsize=TITLE_SIZE)
        for axes in (film, overlay, mask, crop):
            axes.set_axis_off()
        _draw_answers(bars, films.answers[i])
    if title:
        figure.suptitle(title, fontsize=13)
    return figure


def _draw_answers(axes: Axes, answers: Sequence[Answer]) -> None:
    """Draw the most probable findings as bars; those that the labels name stand out."""
    shown = answers[:SHOWN]
    places = range(len(shown))
    colors = [_PRESENT if answer.present else _ABSENT for answer in shown]
    axes.barh(places, [answer.probability for answer in shown], color=colors, height=0.7)
    axes.set_yticks(places, [""] * len(shown))
    for place, (finding, probability, present) in enumerate(shown):
        name = f"{'● ' if present else ''}{plain_name(finding)} {_rounded(probability)}"
        weight = "bold" if present else "normal"
        axes.text(0.015, place, name, va="center", fontsize=8, fontweight=weight)
    rest = [answer for answer in answers[SHOWN:] if answer.present]
    missed = [f"{plain_name(answer.finding)} {_rounded(answer.probability)}" for answer in rest]
    note = f"● also: {', '.join(missed)}" if missed else ""
    axes.set_xlabel(textwrap.fill(note, 38), fontsize=8, fontweight="bold", loc="left")
    axes.set(xlim=(0, 1), ylim=(len(shown) - 0.4, -0.6))
    axes.set_xticks((0, 0.5, 1), ("0", "0.5", "1"), fontsize=8)
    axes.tick_params(left=False, pad=1)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _rounded(probability: float) -> str:
    return "< 0.01" if probability < 0.01 else f"{probability:.2f}"


def _draw_box(
    axes: Axes, box: Sequence[float] | np.ndarray, color: str, line: str, name: str
) -> None:
    xmin, ymin, xmax, ymax = (float(edge) for edge in box)
    # imshow puts the centre of pixel 0 at 0, so its edge is at -0.5.
    corner = (xmin - 0.5, ymin - 0.5)
    size = (xmax - xmin, ymax - ymin)
    axes.add_patch(
        Rectangle(corner, *size, fill=False, edgecolor=color, linestyle=line, linewidth=1.8)
    )
    if name:
        # A name that begins on the right would run out of the film.
        side = "right" if xmin > axes.get_xlim()[1] / 2 else "left"
        place = (xmax - 0.5 if side == "right" else xmin - 0.5, ymin - 0.5)
        backdrop = {"facecolor": "black", "alpha": 0.6, "pad": 1.5, "edgecolor": "none"}
        axes.annotate(
            name,
            place,
            xytext=(-2 if side == "right" else 2, -2),
            textcoords="offset points",
            ha=side,
            va="top",
            color=color,
            fontsize=8,
            bbox=backdrop,
        )
