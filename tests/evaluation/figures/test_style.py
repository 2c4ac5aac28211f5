import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import roc_auc_score, roc_curve

from agcnn_jax.evaluation.figures import style


@given(st.integers(0, 2**32 - 1), st.integers(10, 3000))
def test_a_thinned_curve_stays_where_it_was(seed, size):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, size)
    labels[:2] = 0, 1
    scores = generator.normal(labels)
    false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
    x, y = style.thinned(false, true)
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert len(x) <= 2 * 500 + 3
    assert np.trapezoid(y, x) == pytest.approx(roc_auc_score(labels, scores), abs=1 / 250)


def test_panels_of_findings():
    def draw(axes, finding):
        if finding == "e":
            return "no positive image"
        axes.plot((0, 1), (0, 1), label=finding)
        return None

    grid = {"titles": "ABCDE", "axis_labels": ("x", "y"), "title": "all"}
    figure = style.panel_grid("abcde", draw, **grid, spare="mean", square=True)
    panels = figure.axes
    assert [axes.get_title() for axes in panels[:5]] == list("ABCDE")
    assert [text.get_text() for text in panels[4].texts] == ["no positive image"]
    assert panels[5].texts[0].get_text() == "mean"
    assert [t.get_text() for t in panels[1].get_legend().get_texts()] == ["b"]
    assert panels[0].get_aspect() == 1
    assert (figure.get_suptitle(), figure.get_supxlabel()) == ("all", "x")
    figure = style.panel_grid("abc", draw, **grid, legend="below")
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["a"]
    assert [axes.get_xlabel() for axes in figure.axes[:3]] == ["x"] * 3
    assert not figure.get_supxlabel()


@pytest.mark.parametrize("count", [1, 3])
def test_legends_hide_no_curve_and_touch_no_title(count):
    def draw(axes, finding):
        for i in range(count):
            axes.plot((0, 0, 1), (0, 1, 1), label=f"predicti…st_model 0.{i}00")

    grid = {"titles": "ABCDE", "axis_labels": ("x", "y"), "title": "all\nimages"}
    figure = style.panel_grid("abcde", draw, **grid, square=True)
    figure.draw_without_rendering()
    panels = figure.axes[:5]
    legends = [axes.get_legend().get_window_extent() for axes in panels]
    titles = [axes.title.get_window_extent() for axes in panels]
    boxes = [axes.get_window_extent() for axes in panels]
    tops = [figure._suptitle.get_window_extent(), *boxes]
    for legend, title, box in zip(legends, titles, boxes, strict=True):
        assert legend.y0 >= box.y1
        assert title.y0 >= legend.y1 - 1
        assert not any(title.overlaps(other) or legend.overlaps(other) for other in tops)
    assert titles[4].y1 < boxes[0].y0 - 5  # below the ticks of the panel above


def test_names_of_files_fit_into_panels():
    given = ("fusion", "model.csv.gz", "predictions_of_the_best_model.csv")
    assert [style.short_name(name) for name in given] == ["fusion", "model", "predicti…st_model"]


@pytest.mark.parametrize("image_format", ["png", "jpeg", "pdf"])
def test_encoded_figures_are_the_same_twice(image_format):
    def make():
        figure = Figure(figsize=(2, 1), layout="constrained")
        figure.subplots().plot((0, 1), (0, 1))
        return figure

    data = style.encode(make(), image_format, 50)
    assert data == style.encode(make(), image_format, 50)
    if image_format == "pdf":
        assert data.startswith(b"%PDF")
        assert b"/FontFile2" in data  # TrueType
    else:
        image = Image.open(io.BytesIO(data))
        assert (image.format.lower(), image.size) == (image_format, (100, 50))


def test_all_formats_have_one_layout():
    figure = Figure(figsize=(3, 2), layout="constrained")
    axes = figure.subplots()
    axes.set_ylabel("a label\nof two lines")
    style.encode(figure)
    before = axes.get_position().bounds
    style.encode(figure, "pdf")
    assert axes.get_position().bounds == before
    assert before[0] > 0.15
