"""Styles, a grid of panels with one panel per finding, and encoding, for all figures."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from agcnn_jax.data.collection import SYNTHETIC

if TYPE_CHECKING:  # its imports need the extra train, and overlays need this module without it
    from agcnn_jax.evaluation.scoring.cohort import Cohort

# Okabe and Ito's colours are distinct for colour-blind readers, the line styles in grey print.
_STYLES = {
    "global": ("#0072B2", "--"),
    "local": ("#D55E00", ":"),
    "fusion": ("#000000", "-"),
}
_OTHER_STYLES = (("#0072B2", "-"), ("#D55E00", "--"), ("#009E73", ":"), ("#CC79A7", "-."))
_COLUMNS = 4
# A page of A4 shrinks four panels to three quarters, so that these become 7 points.
TITLE_SIZE, TEXT_SIZE = 10.5, 9
_PANEL = 2.45  # inches
LEGEND: dict[str, Any] = {
    "fontsize": TEXT_SIZE,
    "handlelength": 1.7,
    "edgecolor": "none",
    "labelspacing": 0.25,
}
LEGEND_BELOW = {**LEGEND, "loc": "outside lower center", "ncols": 3, "handlelength": 2.5}
_LEGEND_LINE, _ABOVE_TITLE = 12.0, 7.0  # points
_CURVE_STEP = 1 / 500
_SHORT = 16  # characters


def style(branch: str, index: int) -> tuple[str, str]:
    """Return a branch's colour and line style; others than the paper's go by their index."""
    return _STYLES.get(branch, _OTHER_STYLES[index % len(_OTHER_STYLES)])


def short_name(branch: str) -> str:
    """Shorten the name of a file so that it fits into a panel."""
    name = branch.removesuffix(".gz").removesuffix(".csv")
    return name if len(name) <= _SHORT else f"{name[: _SHORT // 2]}…{name[-_SHORT // 2 :]}"


def heading(name: str, cohort: Cohort, counts: str = "") -> str:
    """Write a figure's title: what it shows, of which images; it says if they are synthetic."""
    parts = [name, cohort.backbone, cohort.subset]
    title = ", ".join(part for part in parts if part)
    counts = counts or f"{cohort.images:,} images of {cohort.patients:,} patients"
    return f"{title}{f' — {SYNTHETIC}' if cohort.synthetic else ''}\n{counts}"


def panel_grid(
    findings: Sequence[str],
    draw: Callable[[Axes, str], str | None],
    *,
    titles: Sequence[str],
    axis_labels: tuple[str, str],
    title: str,
    legend: str = "above",
    spare: str = "",
    square: bool = False,
) -> Figure:
    """Draw one panel for each finding.

    Args:
        findings: in the order of the panels.
        draw: draws a finding's panel, or returns why there is nothing to draw.
        titles: of the panels.
        axis_labels: of all panels, horizontal and vertical.
        title: above the grid.
        legend: "above" for one in each panel, between its title and its curves, of which it hides
            none; "below" for one below the grid.
        spare: text for the first unused panel, if there is one.
        square: all panels show 0 to 1 in both directions, on equal scales.
    """
    columns = min(_COLUMNS, len(findings))
    rows = math.ceil(len(findings) / columns)
    size = (max(_PANEL * columns, 5), _PANEL * rows + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=square, sharey=square)
    lines = 0
    for axes, finding, name in zip(grid.flat, findings, titles, strict=False):
        axes.set_title(name, fontsize=TITLE_SIZE)
        axes.tick_params(labelsize=TEXT_SIZE)
        axes.spines[["top", "right"]].set_visible(False)
        if why_not := draw(axes, finding):
            axes.text(
                *(0.5, 0.5, why_not),
                transform=axes.transAxes,
                ha="center",
                va="center",
                fontsize=TEXT_SIZE,
            )
            if not square:  # square panels share their ticks
                axes.set(xticks=(), yticks=())
        elif legend == "above":
            lines = max(lines, _legend_above(axes))
        if square:
            axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
            axes.set_xticks((0, 0.5, 1), ("0", "0.5", "1"))
            axes.set_yticks((0, 0.5, 1), ("0", "0.5", "1"))
    if lines:
        # The layout leaves too little room below raised titles (matplotlib 3.10).
        figure.set_layout_engine("constrained", h_pad=_ABOVE_TITLE / 72)
        more = rows * (lines * _LEGEND_LINE + 2 * _ABOVE_TITLE)
        figure.set_size_inches(size[0], size[1] + more / 72)
    for axes in grid.flat[len(findings) :]:
        axes.set_axis_off()
    if spare and len(findings) < grid.size:
        place = grid.flat[len(findings)]
        place.text(0.05, 0.95, spare, va="top", fontsize=TITLE_SIZE, linespacing=1.6)
    # The last panel of a column may be hidden; then the one above needs the labels.
    for axes in grid.flat[max(0, len(findings) - columns) : len(findings)]:
        axes.tick_params(labelbottom=True)
        if legend == "below":
            # A label of the whole figure would lie under the legend (matplotlib 3.10).
            axes.set_xlabel(axis_labels[0], fontsize=TEXT_SIZE)
    if legend == "below":
        fullest = max(grid.flat, key=lambda axes: len(axes.get_legend_handles_labels()[1]))
        figure.legend(*fullest.get_legend_handles_labels(), **LEGEND_BELOW)
    else:
        figure.supxlabel(axis_labels[0], fontsize=TITLE_SIZE)
    figure.supylabel(axis_labels[1], fontsize=TITLE_SIZE)
    figure.suptitle(title, fontsize=12)
    return figure


def _legend_above(axes: Axes) -> int:
    """Put a legend between a panel's title and its curves; return its number of lines."""
    lines = len(axes.get_legend_handles_labels()[1])
    options = {**LEGEND, "borderpad": 0.1, "borderaxespad": 0.2}
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), **options)
    axes.set_title(axes.get_title(), fontsize=TITLE_SIZE, pad=6 + lines * _LEGEND_LINE)
    return lines


def thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Leave out the points of a curve that lie too near the one before to be seen.

    A curve of 20,000 images would make a vector file of many megabytes.

    Args:
        x: in 0 to 1, `[N]`.
        y: in 0 to 1, `[N]`.
    """
    steps = np.round(np.stack([x, y]) / _CURVE_STEP)
    mask = np.ones(len(x), bool)
    mask[1:-1] = (np.diff(steps, axis=1)[:, :-1] != 0).any(axis=0)
    return x[mask], y[mask]


def encode(figure: Figure, image_format: str = "png", dpi: int = 130) -> bytes:
    """Encode a figure as a PNG or PDF file or, smaller for photographs, a JPEG file.

    The same figure gives the same bytes.
    """
    buffer = io.BytesIO()
    options: dict[str, Any] = {"pil_kwargs": {"quality": 88}} if image_format == "jpeg" else {}
    metadata = {"CreationDate": None} if image_format == "pdf" else None
    # Text as TrueType, which journals ask for and editors can change.
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        if engine := figure.get_layout_engine():
            # The layout takes as long as the drawing, and is the same for all formats.
            engine.execute(figure)
            figure.set_layout_engine("none")
        figure.savefig(
            buffer, format=image_format, dpi=dpi, facecolor="white", metadata=metadata, **options
        )
    return buffer.getvalue()
