import io

import numpy as np
import pytest
from PIL import Image

from agcnn_jax.evaluation import figures
from agcnn_jax.evaluation.cohort import describe_cohort
from agcnn_jax.metrics.auc_table import auc_table
from agcnn_jax.run.lineage import Overlap


def roc(labels, scores, names, **kwargs):
    patients = np.arange(len(labels))
    given = {
        "split": "test",
        "protocol": "official",
        "backbone": "resnet50",
        "provenance": "ChestX-ray14",
        "overlap": Overlap(0, 0, True),
        **kwargs,
    }
    cohort = describe_cohort(labels, names, patients, **given)
    results = auc_table(
        labels, scores, labels=names, findings=names, patient_ids=patients, resamples=0
    )
    return figures.roc_figure(labels, scores, names, results, cohort)


def test_roc_panels():
    labels = np.array([[1, 0, 1], [0, 0, 1], [1, 0, 1], [0, 0, 1]], np.uint8)
    scores = {"global": np.array([[0.9] * 3, [0.6] * 3, [0.5] * 3, [0.1] * 3])}
    figure = roc(labels, scores, ("Mass", "Pleural_Thickening", "Edema"))
    mass, thickening, edema = figure.axes
    assert mass.get_title() == "Mass (2)"
    assert thickening.get_title() == "Pleural Thickening (0)"
    assert [t.get_text() for t in mass.get_legend().get_texts()] == ["global 0.750"]
    curve = mass.lines[1].get_xydata()
    expected = [(0, 0), (0, 0.5), (0.5, 0.5), (0.5, 1), (1, 1)]
    np.testing.assert_allclose(curve, expected)
    assert mass.get_aspect() == 1
    assert [t.get_text() for t in thickening.texts] == ["no positive image"]
    assert [t.get_text() for t in edema.texts] == ["no negative image"]
    assert "resnet50, test split" in figure.get_suptitle()
    assert "SYNTHETIC" not in figure.get_suptitle()


def test_spare_panel_shows_the_means_and_phantoms_are_named():
    labels = np.array([[1] * 5, [0] * 5], np.uint8)
    scores = {"global": labels * 1.0, "fusion": 1.0 - labels}
    figure = roc(labels, scores, tuple("abcde"), provenance="phantoms (synthetic)")
    assert figure.axes[5].texts[0].get_text() == "Mean (5 of 5)\nglobal 1.000\nfusion 0.000"
    assert "SYNTHETIC PHANTOMS" in figure.get_suptitle()


def films(count=2, size=16, true_boxes=None):
    images = np.zeros((count, size, size), np.uint8)
    boxes = np.tile([2, 4, 10, 8], (count, 1)).astype(np.int32)
    titles = [f"{i}.png" for i in range(count)]
    return figures.Films(images, images / 255, boxes, images, titles, true_boxes)


def test_boxes_are_drawn_on_pixel_edges():
    figure = figures.films_figure(films(true_boxes=[[("Mass", (0, 0, 16, 16))], []]), "a title")
    film, overlay, crop = figure.axes[:3]
    assert [len(axes.patches) for axes in (film, overlay, crop)] == [2, 1, 0]
    edges = film.patches[0].get_bbox().extents
    np.testing.assert_allclose(edges, [1.5, 3.5, 9.5, 7.5])
    np.testing.assert_allclose(film.patches[1].get_bbox().extents, [-0.5, -0.5, 15.5, 15.5])
    assert [t.get_text() for t in film.texts] == ["Mass"]
    assert figure.get_suptitle() == "a title"


@pytest.mark.parametrize("image_format", ["png", "jpeg"])
def test_encode(image_format):
    image = Image.open(io.BytesIO(figures.encode(figures.films_figure(films(1)), image_format, 50)))
    assert image.format.lower() == image_format
    assert image.size == (480, 175)
