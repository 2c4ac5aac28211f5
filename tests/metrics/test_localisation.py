"""Boxes against pixels counted one by one, cases worked out by hand, and laws."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from agcnn_jax.metrics.localisation import (
    IOBB_THRESHOLDS,
    IOU_THRESHOLDS,
    best_hits,
    box_hits,
    box_iobb,
    box_iou,
    contains,
    map_peaks,
    score_differences,
    score_hits,
    stack_boxes,
)
from agcnn_jax.metrics.location_controls import (
    centred_squares,
    maps_of_others,
    mean_boxes_of_others,
)

SIDE = 12


def score_boxes(annotated, found, points, patients, size=SIDE):
    return score_hits(box_hits(annotated, found, points, patients, size))


@st.composite
def boxes(draw):
    xmin, ymin = draw(st.tuples(*[st.integers(0, SIDE - 1)] * 2))
    return np.array(
        [xmin, ymin, draw(st.integers(xmin + 1, SIDE)), draw(st.integers(ymin + 1, SIDE))], float
    )


def pixels(box):
    xmin, ymin, xmax, ymax = box.astype(int)
    mask = np.zeros((SIDE, SIDE), bool)
    mask[ymin:ymax, xmin:xmax] = True
    return mask


@given(boxes(), boxes(), st.floats(0.01, 100), st.floats(-50, 50))
def test_overlap_counted_in_pixels(first, second, scale, shift):
    one, other = pixels(first), pixels(second)
    iou = (one & other).sum() / (one | other).sum()
    iobb = (one & other).sum() / other.sum()
    assert box_iou(first, second) == box_iou(second, first) == pytest.approx(iou)
    assert box_iobb(first, second) == pytest.approx(iobb)
    stretched = [box * [scale, 1, scale, 1] + [0, shift, 0, shift] for box in (first, second)]
    assert box_iou(*stretched) == pytest.approx(iou, rel=1e-6, abs=1e-9)
    centre = np.indices((SIDE, SIDE)).reshape(2, -1).T[:, ::-1]  # x, y
    np.testing.assert_array_equal(contains(first, centre + 0.5), one.ravel())


def test_scores_by_hand():
    """Three images of two patients; their boxes are 10 x 10 unless said otherwise."""
    annotated = stack_boxes(
        [
            np.array([[0, 0, 10, 10], [20, 20, 30, 30]]),
            np.array([[0, 0, 10, 10]]),
            np.array([[50, 50, 60, 60]]),
        ]
    )
    found = stack_boxes(
        [
            # The first annotated box with an IoU of 100 / 140, an IoBB of 100 / 140; a corner of
            # the second, 4 of 64 pixels, which holds no centre.
            np.array([[0, 0, 14, 10], [14, 14, 22, 22]]),
            # Half of the annotated box: IoU 1/2, IoBB 1. Its edge at 5 is no part of it.
            np.array([[0, 0, 5, 10]]),
            np.empty((0, 4)),
        ]
    )
    points = np.array([[25.0, 25.0], [10.0, 5.0], [np.nan, np.nan]])
    scores = score_boxes(annotated, found, points, np.array(["a", "a", "b"]), size=100)
    # Of four boxes: IoU 0.714, 4 / 160, 0.5 and none.
    np.testing.assert_allclose(scores.iou.value, [2 / 4] * 4 + [1 / 4] * 3)
    np.testing.assert_allclose(scores.iobb.value, [2 / 4, 2 / 4, 2 / 4, 1 / 4, 1 / 4])
    # The second box of the first image never matches, its first one up to 0.714.
    np.testing.assert_allclose(scores.false_positives.value, [1 / 3, 1 / 3, 1 / 3, 2 / 3, 2 / 3])
    assert scores.pointing.value == pytest.approx(1 / 3)
    assert scores.centre.value == 1 / 4
    # 140 + 64, 50 and no pixels of 10,000.
    assert scores.area.value == pytest.approx((0.0204 + 0.005) / 3)
    assert scores.centre.low < 1 / 4 < scores.centre.high


@given(st.data(), st.sampled_from([1 / 3, 2 / 7, 56 / 229, 224 / 2021]))
def test_ties_are_decided_as_by_fractions(data, scale):
    """Edges that touch centres and points, and shares that equal a threshold, in any unit."""
    annotated, found = data.draw(boxes()), data.draw(boxes())
    point = np.array(data.draw(st.tuples(*[st.integers(0, SIDE)] * 2)), float)
    hits = box_hits(
        scale * annotated[None, None], scale * found[None, None], scale * point[None],
        np.array([0]), scale * SIDE,
    )  # fmt: skip
    shared = int((pixels(annotated) & pixels(found)).sum())
    union = int((pixels(annotated) | pixels(found)).sum())
    for reached, whole, thresholds in (
        (hits.iou[0], union, IOU_THRESHOLDS),
        (hits.iobb[0], int(pixels(found).sum()), IOBB_THRESHOLDS),
    ):
        exact = [Fraction(shared, whole) > Fraction(str(t)) for t in thresholds]
        assert reached.tolist() == exact
    low, high = annotated[:2] + annotated[2:], 2 * found
    assert hits.centre[0] == bool((high[:2] <= low).all() and (low < high[2:]).all())
    inside = (annotated[:2] <= point).all() and (point < annotated[2:]).all()
    assert hits.pointing[0] == bool(inside)


def test_the_best_of_several_ways_for_each_measure():
    annotated = np.tile([0.0, 0, 4, 4], (4, 1, 1))
    small, large = np.tile([0.0, 0, 2, 4], (4, 1, 1)), np.tile([0.0, 0, 8, 8], (4, 1, 1))
    points = np.array([[1.0, 1], [1, 1], [9, 9], [9, 9]])
    ways = [
        box_hits(annotated, found, at, np.arange(4), SIDE)
        for found, at in ((small, points), (large, points[::-1] * [1, 0]))
    ]
    best = best_hits(ways)
    # IoU of 1/2 and 1/4, IoBB of 1 and 1/4; the larger box alone holds the centre.
    np.testing.assert_array_equal(best.iou, ways[0].iou)
    np.testing.assert_array_equal(best.false_positives, ways[0].false_positives)
    np.testing.assert_array_equal(best.area, ways[0].area)
    np.testing.assert_array_equal(best.centre, ways[1].centre)
    assert best.centre.all() and not ways[0].centre.any()
    assert score_hits(best).pointing.value == 0.5


def test_several_boxes_on_one_lesion_are_one_hit_and_no_false_positive():
    annotated = np.array([[[0.0, 0, 10, 10]]])
    found = np.array([[[0.0, 0, 4, 10], [6, 0, 10, 10]]])
    scores = score_boxes(annotated, found, np.array([[1.0, 1]]), np.array([0]))
    np.testing.assert_allclose(scores.iobb.value, 1)
    np.testing.assert_allclose(scores.false_positives.value, 0)
    np.testing.assert_allclose(scores.iou.value, np.array(IOU_THRESHOLDS) < 0.4)


@given(st.data())
def test_laws_of_scores(data):
    count = data.draw(st.integers(2, 6))
    some = st.lists(boxes(), max_size=3).map(lambda drawn: np.reshape(drawn, (-1, 4)))
    annotated = stack_boxes([data.draw(some.filter(len), label="annotated") for _ in range(count)])
    found = stack_boxes([data.draw(some, label="found") for _ in range(count)])
    points = np.array([data.draw(st.tuples(*[st.floats(0, SIDE)] * 2)) for _ in range(count)])
    patients = np.arange(count) // 2
    scores = score_boxes(annotated, found, points, patients)
    for curve in (scores.iou.value, scores.iobb.value):
        assert (np.diff(curve) <= 0).all()
    assert (np.diff(scores.false_positives.value) >= 0).all()
    # A box is no more than one false positive, and IoBB is at least IoU.
    assert (scores.false_positives.value <= (~np.isnan(found[..., 0])).sum() / count).all()
    assert scores.iobb.value[0] >= scores.iou.value[0]
    assert scores.iobb.value[IOBB_THRESHOLDS.index(0.5)] >= scores.iou.value[4]
    perfect = score_boxes(annotated, annotated, points, patients)
    np.testing.assert_array_equal(perfect.iou.value, 1)
    np.testing.assert_array_equal(perfect.false_positives.value, 0)
    assert perfect.centre.value == 1
    order = data.draw(st.permutations(range(count)))
    turned = score_boxes(annotated[order], found[order], points[order], patients[order])
    for one, other in zip(scores, turned, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_differences_are_paired():
    """Two ways that hit the same boxes differ by nothing, though each share is uncertain."""
    annotated = np.tile([0.0, 0, 4, 4], (4, 1, 1))
    patients = np.arange(4)
    one = np.array([[[0.0, 0, 4, 4]], [[0, 0, 4, 4]], [[8, 8, 9, 9]], [[8, 8, 9, 9]]])
    other = one.copy()
    other[1] = [0, 0, 4, 3]
    points = np.full((4, 2), 1.0)
    hits = [box_hits(annotated, found, points, patients, SIDE) for found in (one, other)]
    same = score_differences(hits[0], hits[0])
    assert not same.iou.value.any()
    difference = score_differences(*hits)
    # IoU of 3/4 is above every threshold.
    np.testing.assert_array_equal(difference.iou.value, 0)
    np.testing.assert_array_equal(difference.pointing, [0, np.nan, np.nan])
    # 4 of 144 pixels more in one of four images: the t interval of 1, 0, 0, 0.
    error = stats.t.ppf(0.975, 3) * 0.5 / np.sqrt(4)
    np.testing.assert_allclose(
        difference.area, np.array([1 / 4, 1 / 4 - error, 1 / 4 + error]) * 4 / 144
    )


def test_peaks_are_cell_centres():
    maps = np.zeros((3, 2, 4))
    maps[0, 1, 2] = 1
    maps[1, 0, 3] = maps[1, 1, 0] = 1
    np.testing.assert_array_equal(map_peaks(maps[:2], 8), [[5, 6], [7, 2]])
    assert np.isnan(map_peaks(maps[2:], 8)).all()


def test_centred_squares():
    np.testing.assert_allclose(
        centred_squares(np.array([4.0, 100]), 10), [[4, 4, 6, 6], [0, 0, 10, 10]]
    )


def test_mean_box_leaves_the_patient_out():
    """All boxes of the patient, on whatever image."""
    generator = np.random.default_rng(0)
    count = [2, 1, 1, 3, 1]
    patients = np.array(["a", "b", "a", "c", "b"])
    each = [generator.random((n, 4)) for n in count]
    expected = [
        np.concatenate([own for own, of in zip(each, patients, strict=True) if of != patient]).mean(
            0
        )
        for patient in patients
    ]
    np.testing.assert_allclose(mean_boxes_of_others(stack_boxes(each), patients), expected)


def test_maps_leave_the_patient_out():
    """Three boxes of two patients and one of a third; a pixel is covered if its centre is."""
    annotated = stack_boxes(
        [
            np.array([[0, 0, 2, 2], [1, 1, 3, 3]]),
            np.array([[0.6, 0.4, 2, 2]]),
            np.array([[-5.0, 2, 1, 9]]),
        ]
    )
    first, second, third = maps_of_others(annotated, np.array(["a", "b", "a"]), 3)
    np.testing.assert_array_equal(first, [[0, 1, 0], [0, 1, 0], [0, 0, 0]])
    np.testing.assert_array_equal(second, [[1, 1, 0], [1, 2, 1], [1, 1, 1]])
    np.testing.assert_array_equal(third, first)
