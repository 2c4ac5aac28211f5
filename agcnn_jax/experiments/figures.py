"""The figure of an experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from agcnn_jax.data.collection import SYNTHETIC
from agcnn_jax.evaluation.figures.style import LEGEND_BELOW, TEXT_SIZE, TITLE_SIZE, style
from agcnn_jax.evaluation.files.table import plain_name
from agcnn_jax.experiments.plan import EXPERIMENTS
from agcnn_jax.experiments.result import DIFFERENCE
from agcnn_jax.experiments.summary import BY_FINDING
from agcnn_jax.models.agcnn import BRANCHES


def draw(content: Mapping[str, Any], backbone: str) -> Figure:
    """Draw an experiment's figure for one backbone, from the content of its `table.json`."""
    name = content["experiment"]
    rows = content["backbones"][backbone]["rows"]
    seeds = len(content["backbones"][backbone]["seeds"])
    if name == "tau":
        figure = _tau_curves(rows)
    elif name == BY_FINDING:
        figure = _by_finding(rows)
    else:
        figure = _by_row(name, rows)
    synthetic = f" — {SYNTHETIC}" if content["synthetic"] else ""
    over = "seeds and patients" if seeds > 1 else "patients"
    figure.suptitle(
        f"{content['title']}{synthetic}\n{backbone}, {seeds} seed{'s' * (seeds != 1)}, "
        f"{content['images']['test']:,} test images\n95 % intervals over {over}",
        fontsize=12,
    )
    return figure


def _by_finding(rows: Mapping[str, Any]) -> Figure:
    """Draw fusion minus global for each finding and their mean."""
    (row,) = rows.values()
    differences = {plain_name(f): d for f, d in row[f"{DIFFERENCE} by finding"].items()}
    differences = {"Mean": row[DIFFERENCE], **differences}
    figure = Figure(figsize=(6.4, 0.3 * len(differences) + 1.9), layout="constrained")
    axes = figure.subplots()
    _ranges(axes, list(differences.values()), np.arange(len(differences)), "#000000")
    axes.axvline(0, color="0.6", linewidth=0.8)
    axes.axhline(0.5, color="0.9", linewidth=0.8)
    _name_rows(axes, list(differences))
    axes.set_xlabel("Fusion minus global, AUC", fontsize=TITLE_SIZE)
    return figure


def _by_row(name: str, rows: Mapping[str, Any]) -> Figure:
    """Draw the mean AUC of each branch beside fusion minus global, row by row."""
    figure = Figure(figsize=(8.6, 0.55 * len(rows) + 2.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    for offset, branch in zip((-0.2, 0.0, 0.2), BRANCHES, strict=True):
        estimates = [row["branches"][branch] for row in rows.values()]
        places = np.arange(len(rows)) + offset
        _ranges(left, estimates, places, style(branch, 0)[0], branch)
    _ranges(right, [row[DIFFERENCE] for row in rows.values()], np.arange(len(rows)), "#000000")
    right.axvline(0, color="0.6", linewidth=0.8)
    _name_rows(left, list(rows))
    _open_frame(right)
    what = EXPERIMENTS[name].what
    left.set_ylabel(what[0].upper() + what[1:], fontsize=TITLE_SIZE)
    left.set_xlabel("Mean AUC", fontsize=TITLE_SIZE)
    right.set_xlabel("Fusion minus global", fontsize=TITLE_SIZE)
    figure.legend(*left.get_legend_handles_labels(), **LEGEND_BELOW)
    return figure


def _ranges(
    axes: Axes,
    estimates: Sequence[Mapping[str, Any]],
    places: np.ndarray,
    color: str,
    label: str = "",
) -> None:
    """Draw estimates with their intervals, one a row."""
    for place, one in zip(places, estimates, strict=True):
        if one["interval"]:
            axes.plot(one["interval"], (place, place), color=color, linewidth=1.2)
    values = [np.nan if one["value"] is None else one["value"] for one in estimates]
    axes.plot(values, places, "o", color=color, markersize=4.5, label=label)


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names, fontsize=TEXT_SIZE)
    axes.set_ylim(len(names) - 0.5, -0.5)
    _open_frame(axes)


def _open_frame(axes: Axes) -> None:
    axes.tick_params(labelsize=TEXT_SIZE)
    axes.spines[["top", "right"]].set_visible(False)


def _tau_curves(rows: Mapping[str, Any]) -> Figure:
    """Draw AUC over tau as in Figs. 8 and 9: validation and test, local and fusion."""
    figure = Figure(figsize=(8.6, 3.9), layout="constrained")
    panels = figure.subplots(1, 2)
    taus = [float(row) for row in rows]
    for axes, branch in zip(panels, ("local", "fusion"), strict=True):
        estimates = [row["branches"][branch] for row in rows.values()]
        color = style(branch, 0)[0]
        for tau, one in zip(taus, estimates, strict=True):
            if one["interval"]:
                axes.plot((tau, tau), one["interval"], color=color, linewidth=1)
        values = [one["value"] for one in estimates]
        axes.plot(taus, values, "o-", color=color, markersize=4.5, label="test")
        values = [one["validation"] for one in estimates]
        axes.plot(taus, values, "s--", color="0.55", markersize=4, label="validation")
        values = [row["branches"]["global"]["value"] for row in rows.values()]
        color = style("global", 0)[0]
        axes.plot(taus, values, "--", color=color, linewidth=1, label="global branch, test")
        axes.set_title(branch, fontsize=TITLE_SIZE)
        axes.set_xticks(taus, rows)
        axes.set_xlabel("Threshold tau of the heat map", fontsize=TITLE_SIZE)
        _open_frame(axes)
    panels[0].set_ylabel("Mean AUC", fontsize=TITLE_SIZE)
    figure.legend(*panels[0].get_legend_handles_labels(), **LEGEND_BELOW)
    return figure
