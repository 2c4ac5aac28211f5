import types

import numpy as np

from agcnn_jax.data.labels import MISSING
from agcnn_jax.training.first_look import SIDE, draw, findings_of, first_ill

BOX_COLOUR = (233, 180, 86)


def test_film_heat_map_and_box():
    """A gray film of 56 pixels, whose right half is hot and holds the box."""
    hot = np.zeros((56, 56), np.float32)
    hot[:, 28:] = 1
    picture = draw(np.full((56, 56), 100.0), hot, np.array([28, 14, 56, 42]), "a film")
    film, heat = picture[:SIDE, :SIDE].astype(int), picture[:SIDE, SIDE:].astype(int)
    # Far from the edges of box and heat map, each pixel of the film covers 8 x 8 of the picture.
    assert (film[50, 50] == 100).all() and (film[SIDE // 2, SIDE - 50] == 100).all()
    # Inferno runs from almost black to a light yellow: blue is its smallest part there.
    assert (abs(heat[50, 50] - 50) <= 3).all()
    blue, green, red = heat[SIDE // 2, SIDE - 50]
    assert red > 150 and green > 150 and blue < red
    for tile in (film, heat):
        for row, column in ((14 * 8, 300), (42 * 8 - 1, 300), (200, 28 * 8), (200, SIDE - 1)):
            np.testing.assert_array_equal(tile[row, column], BOX_COLOUR)


def test_the_caption_is_drawn_below():
    film, box = np.zeros((56, 56)), np.array([0, 0, 56, 56])
    with_words, without = draw(film, film, box, "Masse, Hernie"), draw(film, film, box, "")
    np.testing.assert_array_equal(with_words[:SIDE], without[:SIDE])
    assert without[SIDE:].max() == 0 and with_words[SIDE:].max() > 200


def test_a_label_that_is_not_known_is_no_finding():
    records = types.SimpleNamespace(
        findings=("Mass", "Hernia"),
        finding_columns=np.array([0, 2]),
        label_matrix=np.uint8([[0, 1, 0], [MISSING, 1, 0], [0, 0, 1], [1, MISSING, 1]]),
    )
    assert first_ill(records, np.array([0, 1, 3, 2])) == 2
    assert first_ill(records, np.array([1, 0])) == 0
    named = ["no finding", "no known finding", "Hernia", "Mass, Hernia"]
    assert [findings_of(records, index) for index in range(4)] == named
