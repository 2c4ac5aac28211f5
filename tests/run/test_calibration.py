import dataclasses
import json

import numpy as np
import pytest
from etils import epath
from scipy.special import expit

from agcnn_jax.metrics.calibration import fit_line
from agcnn_jax.metrics.feature_distance import fit_features
from agcnn_jax.metrics.operating_points import choose_thresholds
from agcnn_jax.run.calibration import calibrate, read_calibration, write_calibration
from agcnn_jax.runtime.errors import UserError

LABELS = ("Mass", "Hernia")
WEIGHTS = {"global": "1" * 16}


@pytest.fixture(scope="module")
def drawn():
    """60 images of 60 patients, of whom 9 have Hernia."""
    generator = np.random.default_rng(0)
    labels = np.stack([np.arange(60) % 2, np.arange(60) < 9], axis=1).astype(np.uint8)
    return labels, generator.normal(labels, 1.5).astype(np.float32)


def choose(labels, logits, of_logits=True):
    return calibrate(
        labels,
        {"global": expit(logits)},
        {"global": logits} if of_logits else None,
        labels=LABELS,
        patients=np.arange(60),
    )


def test_choices_are_those_of_the_finding(drawn):
    labels, logits = drawn
    found = choose(labels, logits)
    assert (found.images, found.patients, found.of_logits) == (60, 60, True)
    assert list(found.branches["global"]) == ["Mass"]  # nine patients are too few
    choice = found.branches["global"]["Mass"]
    assert choice.platt == fit_line(labels[:, 0], logits[:, 0].astype(float))
    assert choice.thresholds == choose_thresholds(labels[:, 0], logits[:, 0])
    of_probabilities = choose(labels, logits, of_logits=False).branches["global"]["Mass"]
    assert of_probabilities.platt == pytest.approx(choice.platt, rel=1e-4)
    for rule, threshold in choice.thresholds.items():
        assert of_probabilities.thresholds[rule] == pytest.approx(expit(threshold))


def test_what_is_written_is_read(drawn, tmp_path):
    found, workdir = choose(*drawn), epath.Path(tmp_path)
    assert read_calibration(workdir, WEIGHTS) is None
    write_calibration(workdir, found, WEIGHTS)
    assert read_calibration(workdir, WEIGHTS) == found
    record = json.loads((tmp_path / "calibration.json").read_text())
    threshold = record["branches"]["global"]["Mass"]["thresholds"]["youden"]
    assert threshold["probability"] == pytest.approx(expit(threshold["logit"]))


def test_other_weights_and_other_crops_have_no_calibration(drawn, tmp_path):
    workdir = epath.Path(tmp_path)
    write_calibration(workdir, choose(*drawn), WEIGHTS)
    assert read_calibration(workdir, {"global": "2" * 16}) is None
    assert read_calibration(workdir, {**WEIGHTS, "local": "2" * 16}) is None
    assert read_calibration(workdir, WEIGHTS, "ten") is None
    write_calibration(workdir, choose(*drawn), WEIGHTS, "ten")
    assert read_calibration(workdir, WEIGHTS, "ten") is not None


def test_a_choice_that_does_not_exist_stays_so(tmp_path):
    """A threshold separates the classes, and no score keeps the specificity."""
    labels, logits = np.ones((60, 2), np.uint8), np.full((60, 2), 3.0)
    labels[:20] = 0
    found, workdir = choose(labels, logits), epath.Path(tmp_path)
    assert found.branches["global"]["Mass"].platt is None
    assert found.branches["global"]["Mass"].thresholds["specificity_0.9"] is None
    write_calibration(workdir, found, WEIGHTS)
    assert read_calibration(workdir, WEIGHTS) == found


def test_features_are_written_and_read(drawn, tmp_path):
    features = fit_features(np.random.default_rng(0).normal(size=(60, 8)), np.arange(60))
    found, workdir = dataclasses.replace(choose(*drawn), features=features), epath.Path(tmp_path)
    write_calibration(workdir, found, WEIGHTS)
    assert read_calibration(workdir, WEIGHTS) == found
    changed = dataclasses.replace(features, mean=features.mean + 1)
    assert dataclasses.replace(found, features=changed) != found
    path = tmp_path / "calibration.json"
    path.write_text(path.read_text().replace('"float32": "', '"float32": "AAAA'))
    with pytest.raises(UserError, match=r"calibration.json is damaged; delete it"):
        read_calibration(workdir, WEIGHTS)


def test_a_damaged_file(tmp_path):
    record = {"version": 2, "weights": WEIGHTS, "branches": {"global": {"Mass": {}}}}
    (tmp_path / "calibration.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"calibration.json is damaged; delete it"):
        read_calibration(epath.Path(tmp_path), WEIGHTS)
