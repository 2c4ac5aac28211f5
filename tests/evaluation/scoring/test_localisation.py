"""Regions attended to in phantoms, against what the prediction step reads, computed again."""

import csv
import dataclasses
import functools
import gzip

import jax
import numpy as np
import pytest
from etils import epath

from agcnn_jax.attention.heatmap import heat_map
from agcnn_jax.data.coordinates import to_input_pixels
from agcnn_jax.evaluation.scoring.localisation import (
    BEST_CONTROL,
    CONTROLS,
    MEAN_BOX,
    PRIOR,
    TAUS,
    WAYS,
    Annotated,
    annotated_boxes,
    location_priors,
    score_localisation,
)
from agcnn_jax.evaluation.scoring.map_boxes import response_maps
from agcnn_jax.metrics.localisation import contains, stack_boxes
from agcnn_jax.metrics.location_controls import mean_boxes_of_others
from agcnn_jax.models.agcnn import apply_branch
from agcnn_jax.run.run import open_run
from agcnn_jax.training.predict_step import predict_step
from tests.configs import demo
from tests.support.shared import CHEST_XRAY14, needs_chest_xray14
from tests.support.small_steps import random_variables

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def experiment(data_dir):
    config = demo.get_config()
    config.data.dir = str(data_dir)
    config.input_size = 56
    config.eval_batch_size = 64
    config.attention.tau = 0.65
    return open_run(config, epath.Path("/nowhere"))


@pytest.fixture(scope="module")
def variables(experiment):
    return random_variables(experiment.recipe.model, 56)


@pytest.fixture(scope="module")
def indices(experiment):
    return experiment.split.test


@pytest.fixture(scope="module")
def columns(experiment):
    return {label: column for column, label in enumerate(experiment.records.labels)}


@pytest.fixture(scope="module")
def localisation(experiment, variables, columns, indices):
    return score_localisation(experiment, variables, columns, indices)


def test_counts_are_those_of_the_scored_split(experiment, indices, localisation):
    boxes, records = experiment.records.boxes, experiment.records
    rows = [i for i, record in enumerate(boxes.records) if record in set(indices.tolist())]
    assert 0 < len(rows) < len(boxes.records)
    assert localisation.total.boxes == len(rows)
    assert localisation.total.images == len(set(boxes.records[rows]))
    for finding, count in localisation.counts.items():
        own = [row for row in rows if boxes.findings[row] == finding]
        assert count.boxes == len(own) > 0
        assert count.images == len(set(boxes.records[own]))
        assert count.patients == len(set(records.patient_ids[boxes.records[own]]))
    assert list(localisation.scores) == sorted({*TAUS, 0.65})


def test_the_attended_region_is_the_one_that_the_local_branch_reads(
    experiment, variables, indices, localisation
):
    """IoU, IoBB and centre of the attended box at the run's tau, box by box."""
    recipe, records = experiment.recipe, experiment.records
    step = jax.jit(functools.partial(predict_step, recipe=recipe, branches=("local",)))
    boxes = records.boxes
    source = records.images_and_labels()
    for finding, count in localisation.counts.items():
        ious, iobbs, centred = [], [], []
        for record, name, corners in zip(boxes.records, boxes.findings, boxes.corners, strict=True):
            if name != finding or record not in indices:
                continue
            left, top, right, bottom = step(variables, source[record]["image"][None])["boxes"][0]
            size = np.array([records.widths[record], records.heights[record]])
            (xmin, ymin, xmax, ymax) = to_input_pixels(corners[None], 56, 64, size)[0]
            across = max(0, min(right, xmax) - max(left, xmin))
            shared = across * max(0, min(bottom, ymax) - max(top, ymin))
            own, theirs = (right - left) * (bottom - top), (xmax - xmin) * (ymax - ymin)
            ious.append(shared / (own + theirs - shared))
            iobbs.append(shared / own)
            x, y = (xmin + xmax) / 2, (ymin + ymax) / 2
            centred.append(left <= x < right and top <= y < bottom)
        assert len(ious) == count.boxes
        scores = localisation.scores[0.65]["attended"][finding]
        expected = [np.mean(np.array(ious) > t) for t in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)]
        np.testing.assert_allclose(scores.iou.value, expected)
        expected = [np.mean(np.array(iobbs) > t) for t in (0.1, 0.25, 0.5, 0.75, 0.9)]
        np.testing.assert_allclose(scores.iobb.value, expected)
        assert scores.centre.value == pytest.approx(np.mean(centred))


def test_maps_of_a_batch(experiment, variables, indices):
    """The heat map is the paper's; a class-specific map follows the weights of its own finding."""
    recipe = experiment.recipe
    images = np.stack([experiment.records.images_and_labels()[i]["image"] for i in indices[:3]])
    compute = jax.jit(functools.partial(response_maps, recipe=recipe))
    responses, maps = compute(variables, images, indices[:3].astype(np.int32), np.array([4, 0, 4]))
    inputs = images[:, 4:-4, 4:-4].astype(np.float32)
    features = jax.jit(
        lambda x: apply_branch(recipe.model, variables, "global", x, train=False)[0].feature_map
    )(inputs)
    np.testing.assert_allclose(maps[0], heat_map(features, 56, recipe.statistic), atol=1e-5)
    kernel = np.asarray(variables["params"]["global"]["head"]["kernel"])
    for image, column in enumerate([4, 0, 4]):
        cam = np.maximum(np.asarray(features[image]) @ kernel[:, column], 0)
        np.testing.assert_allclose(responses[1][image], cam / cam.size, rtol=1e-4, atol=1e-6)
    assert maps.min() == 0
    assert maps.max() == 1
    # Random maps differ between images, and are drawn again for the same image.
    again, _ = compute(variables, images[:1], indices[:1].astype(np.int32), np.array([1]))
    np.testing.assert_array_equal(again[3][0], responses[3][0])
    assert (responses[3][0] != responses[3][1]).all()


def test_neither_batches_nor_devices_change_a_score(
    experiment, variables, columns, indices, localisation
):
    assert experiment.mesh.size == 8
    config = experiment.config.copy_and_resolve_references()
    config.eval_batch_size = 24
    smaller = dataclasses.replace(experiment, config=config)
    again = score_localisation(smaller, variables, columns, indices)
    for tau, of_tau in localisation.scores.items():
        for way, of_way in of_tau.items():
            for finding, scores in of_way.items():
                for one, other in zip(scores, again.scores[tau][way][finding], strict=True):
                    np.testing.assert_array_equal(one, other)


def test_controls_and_differences_from_them(experiment, localisation):
    several = {name for name, count in localisation.counts.items() if count.patients > 1}
    assert several
    for of_tau in localisation.scores.values():
        assert set(of_tau) == set(WAYS)
        assert set(of_tau[MEAN_BOX]) == set(of_tau[PRIOR]) == several
    assert set(localisation.differences) == {*WAYS, BEST_CONTROL} - {"attended"}
    of_tau = localisation.scores[0.65]
    for way, of_way in localisation.differences.items():
        for finding, difference in of_way.items():
            ways = [way] if way != BEST_CONTROL else [x for x in CONTROLS if finding in of_tau[x]]
            for measure, values in difference._asdict().items():
                theirs = [getattr(of_tau[x][finding], measure).value for x in ways]
                best = np.min if measure in ("false_positives", "area") else np.max
                own = getattr(of_tau["attended"][finding], measure).value
                np.testing.assert_allclose(values.value, own - best(theirs, axis=0), atol=1e-12)


def test_the_location_prior_is_where_others_overlap():
    boxes = [np.array([[2.0, 2, 8, 8]]), np.array([[4.0, 4, 10, 10]]), np.array([[20.0, 0, 24, 9]])]
    images = Annotated(np.arange(4), np.array(list("abcd")), stack_boxes([*boxes, boxes[0]]))
    points, found = location_priors(images, [0.3, 0.6], 32)
    # Without the last: two boxes overlap in 4..8, one box each elsewhere.
    np.testing.assert_array_equal(points[3], [6, 6])
    np.testing.assert_array_equal(found[0.6][3], [[4, 4, 8, 8]])
    np.testing.assert_array_equal(found[0.3][3], [[2, 2, 10, 10]])


@needs_chest_xray14
def test_the_location_prior_on_the_annotated_radiographs():
    """Findings on either side: the mean box lies between the lungs, the mode in one of them."""
    with gzip.open(CHEST_XRAY14 / "BBox_List_2017.csv.gz", "rt") as file:
        rows = list(csv.reader(file))[1:]
    pointing = {}
    for finding in ("Effusion", "Pneumonia", "Pneumothorax"):
        mine = [row for row in rows if row[1] == finding]
        corners = np.array([row[2:6] for row in mine], float)
        corners[:, 2:] += corners[:, :2]
        patients = np.array([row[0].split("_")[0] for row in mine])
        images = Annotated(np.arange(len(mine)), patients, corners[:, None] / 4)
        point, _ = location_priors(images, [0.5], 256)
        mean = mean_boxes_of_others(images.boxes, patients)
        centre = (mean[:, :2] + mean[:, 2:]) / 2
        pointing[finding] = [contains(images.boxes[:, 0], x).mean() for x in (centre, point)]
    for of_mean, of_prior in pointing.values():
        assert of_prior > of_mean + 0.15
    assert pointing["Effusion"] == pytest.approx([0.03, 0.33], abs=0.03)


def test_outputs_in_another_order_and_without_some_findings(
    experiment, variables, columns, indices, localisation
):
    """As those of converted weights: the maps follow the output that a finding has."""
    turned = jax.tree.map(lambda leaf: leaf, variables)
    head = turned["params"]["global"]["head"]
    turned["params"]["global"]["head"] = {name: leaf[..., ::-1] for name, leaf in head.items()}
    kept = {label: 14 - column for label, column in columns.items() if label != "Effusion"}
    found = score_localisation(experiment, turned, kept, indices)
    assert found.counts == {
        name: count for name, count in localisation.counts.items() if name != "Effusion"
    }
    for finding in found.counts:
        for way in WAYS:
            scores = found.scores[0.5][way].get(finding)
            expected = localisation.scores[0.5][way].get(finding)
            assert (scores is None) == (expected is None)
            if scores is not None:
                np.testing.assert_array_equal(scores.iou, expected.iou)


def test_a_split_without_boxes(experiment, variables, columns, indices):
    without = np.setdiff1d(indices, experiment.records.boxes.records)
    assert not annotated_boxes(experiment, without)
    found = score_localisation(experiment, variables, columns, without)
    assert (found.total.boxes, found.total.images, found.counts) == (0, 0, {})
