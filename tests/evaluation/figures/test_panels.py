import dataclasses

import numpy as np

from agcnn_jax.evaluation.figures.panels import films_figure
from agcnn_jax.evaluation.scoring.films import choose_examples
from tests.evaluation.cases import draw, make_films


def test_boxes_are_drawn_on_pixel_edges():
    films = make_films(true_boxes=[[("Mass", (0, 0, 16, 16))], []])
    figure = films_figure(films, "a title")
    film, overlay, mask, crop, _ = figure.axes[:5]
    assert [len(axes.patches) for axes in (film, overlay, mask, crop)] == [2, 1, 1, 0]
    edges = film.patches[0].get_bbox().extents
    np.testing.assert_allclose(edges, [1.5, 3.5, 9.5, 7.5])
    np.testing.assert_allclose(film.patches[1].get_bbox().extents, [-0.5, -0.5, 15.5, 15.5])
    assert [t.get_text() for t in film.texts] == ["Mass"]
    assert figure.get_suptitle() == "a title"


def test_ten_findings_with_the_true_ones_marked():
    bars = films_figure(make_films(1)).axes[4]
    texts = [text.get_text() for text in bars.texts]
    assert texts[:2] == ["F0 1.00", "● F1 0.92"]
    assert len(texts) == len(bars.patches) == 10
    assert bars.patches[1].get_facecolor() != bars.patches[0].get_facecolor()
    assert bars.get_xlabel() == "● also: F11 0.08"


def test_examples_of_one_kind():
    films = make_films(3, true_boxes=[[], [("Mass", (1, 1, 5, 5))], []])
    misses = films.of_kind("misses")
    assert (misses.titles, misses.true_boxes) == (["1.png"], [[("Mass", (1, 1, 5, 5))]])
    assert len(misses.images) == len(misses.boxes) == len(misses.answers) == 1
    assert films.of_kind("catches").titles == ["0.png", "2.png"]
    assert make_films(2).of_kind("misses").true_boxes is None


def test_names_stay_inside_the_film():
    films = make_films(1, true_boxes=[[("Mass", (1, 1, 5, 5)), ("Hernia", (10, 1, 15, 5))]])
    left, right = films_figure(films).axes[0].texts
    assert (left.get_ha(), left.xy[0]) == ("left", 0.5)
    assert (right.get_ha(), right.xy[0]) == ("right", 14.5)


def test_crops_that_nothing_reads_are_not_said_to_be_read():
    titles = [films_figure(make_films(1)).axes[3].get_title()]
    titles.append(films_figure(dataclasses.replace(make_films(1), read=False)).axes[3].get_title())
    assert titles == ["read by the local branch", "attended region"]


def test_best_catches_and_worst_misses():
    scored = draw()
    scores = np.zeros((240, 3))
    labels = scored.label_matrix
    positive = [np.flatnonzero(labels[:, column]) for column in (0, 1)]
    mass, thickening = positive[0][4], positive[1][7]
    scores[mass, 0] = scores[thickening, 1] = 1
    scores[positive[0][9], 0] = -1
    scores[labels[:, 1] == 0, 1] = -0.5  # even the lowest thickening beats all negatives
    scored = dataclasses.replace(scored, logits={"global": -scores, "fusion": scores})
    first, second, worst, other = choose_examples(scored)
    # Both beat all images without the finding; thickening is the rarer one.
    assert (first.row, first.column, first.beaten) == (thickening, 1, 1.0)
    assert (second.row, second.column, second.caught) == (mass, 0, True)
    assert (worst.row, worst.column, worst.beaten, worst.caught) == (positive[0][9], 0, 0.0, False)
    assert (other.column, other.beaten, other.caught) == (1, 1.0, False)
    assert len({example.row for example in (first, second, worst, other)}) == 4
    assert len(choose_examples(scored, catches=1, misses=0)) == 1
