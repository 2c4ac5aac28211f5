"""The change that a finding makes to a phantom, and its boxes."""

import numpy as np
import pytest

from agcnn_jax.data_prep.phantom import anatomy, cohort, lesions
from agcnn_jax.data_prep.phantom.cohort import Film
from agcnn_jax.data_prep.phantom.lesions import FINDINGS
from agcnn_jax.data_prep.phantom.render import render


def with_and_without(finding, number, size=128):
    """Return a chest with a finding and without it, and the finding's boxes."""
    person = cohort.patient(9, number)
    first = person.films[0]
    sick, found = render(
        9, person, Film(0, (finding,), first.age, first.portable), size, label_noise=False
    )
    well, none = render(9, person, Film(0, (), first.age, first.portable), size, label_noise=False)
    assert none == []
    return sick.astype(float), well.astype(float), found[0][1]


@pytest.mark.parametrize("finding", FINDINGS)
def test_boxes_contain_the_change_of_their_finding(finding):
    inside = total = 0.0
    for number in range(1, 9):
        sick, well, boxes = with_and_without(finding, number)
        change = np.abs(sick - well)
        change[change < 2] = 0  # rounding, and noise, which is stronger at lower attenuation
        covered = np.zeros(change.shape, bool)
        for x0, y0, x1, y1 in boxes:
            assert 0 <= x0 < x1 <= 128 and 0 <= y0 < y1 <= 128
            covered[max(y0 - 1, 0) : y1 + 1, max(x0 - 1, 0) : x1 + 1] = True
        inside += change[covered].sum()
        total += change.sum()
    assert total > 0
    assert inside / total > 0.85


def test_nodules_are_small_and_the_heart_is_not():
    nodules, hearts, masses = (
        np.concatenate(
            [
                np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) / 128**2
                for _, _, boxes in (with_and_without(finding, n) for n in range(1, 9))
            ]
        )
        for finding in ("Nodule", "Cardiomegaly", "Mass")
    )
    assert nodules.max() < 0.01
    assert nodules.max() < np.median(masses) < np.median(hearts)
    assert np.median(hearts) > 0.08


def test_cardiomegaly_widens_the_heart_beyond_half_the_thorax():
    def ratio(body):
        heart = anatomy.heart(body)
        chest = [anatomy.lung(body, side)[:, 0] for side in anatomy.SIDES]
        return np.ptp(heart[:, 0]) / (chest[1].max() - chest[0].min())

    rng = np.random.default_rng(0)
    for _ in range(30):
        body = anatomy.draw_body(rng, 50, female=bool(rng.integers(2)))
        large = lesions.deform("Cardiomegaly", body, rng, lesions.severity(rng))
        assert ratio(body) < 0.56
        assert ratio(large) > max(0.5, ratio(body) + 0.04)
