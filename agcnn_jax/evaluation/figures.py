"""The figures of an evaluation: ROC curves, and films with the attended regions."""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from sklearn.metrics import roc_curve

from agcnn_jax.evaluation.cohort import Cohort
from agcnn_jax.evaluation.tables import mean_name, number
from agcnn_jax.metrics.auc_table import BranchAUC

# Okabe and Ito's colours are distinct for colour-blind readers, the line styles in grey print.
_STYLES = {
    "global": ("#0072B2", "--"),
    "local": ("#D55E00", ":"),
    "fusion": ("#000000", "-"),
}
_OTHER_STYLES = (("#009E73", "-"), ("#CC79A7", "--"), ("#E69F00", ":"))
_BOX, _TRUE_BOX = "#56B4E9", "#F0E442"
_COLUMNS = 4

Box = tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class Films:
    """Images with the regions that the model attended to; boxes are half-open pixels of the image.

    Attributes:
        images: uint8 `[n, S, S]`.
        heat_maps: float `[n, S, S]`, 0 to 1.
        boxes: int `[n, 4]`: xmin, ymin, xmax, ymax of the region that the local branch reads.
        crops: uint8 `[n, S, S]`: that region, as the local branch reads it.
        titles: n titles, such as the image's name and its probabilities.
        true_boxes: per image, its annotated (finding, box) pairs; None without annotations.
    """

    images: np.ndarray
    heat_maps: np.ndarray
    boxes: np.ndarray
    crops: np.ndarray
    titles: Sequence[str]
    true_boxes: Sequence[Sequence[tuple[str, Box]]] | None = None


def _style(branch: str, index: int) -> tuple[str, str]:
    return _STYLES.get(branch, _OTHER_STYLES[index % len(_OTHER_STYLES)])


def roc_figure(
    label_matrix: np.ndarray,
    scores: Mapping[str, np.ndarray],
    labels: Sequence[str],
    results: Mapping[str, BranchAUC],
    cohort: Cohort,
) -> Figure:
    """Draw the ROC curve of each branch, one panel per finding, as in the paper's Fig. 5.

    Args:
        label_matrix: 0 or 1, `[N, C]`.
        scores: per branch, the logits or probabilities that its AUCs rank, `[N, C]`.
        labels: names of the C columns.
        results: per branch, its AUCs; each of their findings gets a panel.
        cohort: described in the title.
    """
    findings = next(iter(results.values())).findings
    columns = min(_COLUMNS, len(findings))
    rows = math.ceil(len(findings) / columns)
    figure = Figure(figsize=(3.3 * columns, 3.3 * rows + 0.8), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes, finding in zip(grid.flat, findings, strict=False):
        column = list(labels).index(finding)
        truth = label_matrix[:, column]
        title = f"{finding.replace('_', ' ')} ({cohort.positives[finding]:,})"
        axes.set_title(title, fontsize=12)
        axes.plot((0, 1), (0, 1), color="0.8", linewidth=0.8)
        if finding in next(iter(results.values())).missing:
            which = "positive" if not truth.any() else "negative"
            axes.text(0.5, 0.5, f"no {which} image", ha="center", va="center", fontsize=11)
        else:
            for i, (branch, matrix) in enumerate(scores.items()):
                false, true, _ = roc_curve(truth, matrix[:, column])
                color, line = _style(branch, i)
                label = f"{branch} {number(results[branch].auc[finding])}"
                axes.plot(false, true, line, color=color, linewidth=1.6, label=label)
            axes.legend(loc="lower right", fontsize=10, handlelength=1.8, edgecolor="none")
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        axes.set_xticks((0, 0.5, 1), ("0", "0.5", "1"))
        axes.set_yticks((0, 0.5, 1), ("0", "0.5", "1"))
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid.flat[len(findings) :]:
        axes.set_axis_off()
    if len(findings) < grid.size:
        means = [f"{branch} {number(one.mean.value)}" for branch, one in results.items()]
        text = "\n".join([mean_name(next(iter(results.values()))), *means])
        grid.flat[len(findings)].text(0.1, 0.9, text, va="top", fontsize=12, linespacing=1.6)
    # The last panel of a column may be hidden; then the one above needs the labels.
    for axes in grid.flat[max(0, len(findings) - columns) : len(findings)]:
        axes.tick_params(labelbottom=True)
    figure.supxlabel("False positive rate (1 − specificity)", fontsize=12)
    figure.supylabel("True positive rate (sensitivity)", fontsize=12)
    figure.suptitle(_title(cohort), fontsize=14)
    return figure


def _title(cohort: Cohort) -> str:
    parts = ["ROC curves", cohort.backbone, cohort.split and f"{cohort.split} split"]
    title = ", ".join(part for part in parts if part)
    subtitle = f"{cohort.images:,} images of {cohort.patients:,} patients; positives in brackets"
    return f"{title}{' — SYNTHETIC PHANTOMS' if cohort.synthetic else ''}\n{subtitle}"


def films_figure(films: Films, title: str = "") -> Figure:
    """Draw one row per image: the film with boxes, the heat map over it, the crop.

    Args:
        films: what to draw.
        title: above the grid; it must say if the images are synthetic.
    """
    count = len(films.images)
    figure = Figure(figsize=(9.6, 3.5 * count + (0.5 if title else 0)), layout="constrained")
    grid = figure.subplots(count, 3, squeeze=False)
    for i, (film, overlay, crop) in enumerate(grid):
        true_boxes = films.true_boxes[i] if films.true_boxes is not None else ()
        film.imshow(films.images[i], cmap="gray", vmin=0, vmax=255)
        overlay.imshow(films.images[i], cmap="gray", vmin=0, vmax=255)
        overlay.imshow(films.heat_maps[i], cmap="inferno", vmin=0, vmax=1, alpha=0.5)
        crop.imshow(films.crops[i], cmap="gray", vmin=0, vmax=255)
        for axes in (film, overlay):
            _draw_box(axes, films.boxes[i], _BOX, "-", "")
        for name, box in true_boxes:
            _draw_box(film, box, _TRUE_BOX, "--", name)
        film.set_title(films.titles[i], fontsize=11, loc="left")
        if i == 0:
            overlay.set_title("heat map", fontsize=11)
            crop.set_title("region read by the local branch", fontsize=11)
        for axes in (film, overlay, crop):
            axes.set_axis_off()
    if title:
        figure.suptitle(title, fontsize=13)
    return figure


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
        backdrop = {"facecolor": "black", "alpha": 0.6, "pad": 1.5, "edgecolor": "none"}
        axes.annotate(
            name,
            corner,
            xytext=(2, -2),
            textcoords="offset points",
            va="top",
            color=color,
            fontsize=9,
            bbox=backdrop,
        )


def encode(figure: Figure, image_format: str = "png", dpi: int = 110) -> bytes:
    """Encode the figure as a PNG or, smaller for photographs, a JPEG file."""
    buffer = io.BytesIO()
    options = {"quality": 88} if image_format == "jpeg" else {}
    figure.savefig(buffer, format=image_format, dpi=dpi, facecolor="white", pil_kwargs=options)
    return buffer.getvalue()
