import base64
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


@pytest.fixture
def damaged(drawn, tmp_path):
    """Return `damage(*place, value)`, which writes a calibration with one value replaced."""
    features = fit_features(np.random.default_rng(0).normal(size=(60, 8)), np.arange(60))
    workdir = epath.Path(tmp_path)
    write_calibration(workdir, dataclasses.replace(choose(*drawn), features=features), WEIGHTS)
    written = (tmp_path / "calibration.json").read_text()

    def damage(*place, value):
        record = inner = json.loads(written)
        for name in place[:-1]:
            inner = inner[name]
        inner[place[-1]] = value
        if value is ...:
            del inner[place[-1]]
        (tmp_path / "calibration.json").write_text(json.dumps(record))
        return workdir

    return damage


MASS = ("branches", "global", "Mass")
YOUDEN = (*MASS, "thresholds", "youden")


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("version",), 3, "calibration.json is of version 3, but this program reads 2; use"),
        (("version",), 1, "calibration.json is of version 1, but this program reads 2; use"),
        (("version",), "2", "version is '2'; it must be a whole number"),
        (("version",), ..., "has no version"),
        (("weights",), None, "weights is None; it must be an object"),
        (("images",), 0, "images is 0; it must be a whole number, at least 1"),
        (("patients",), "60", "patients is '60'; it must be a whole number"),
        (("branches",), [], "branches is []; it must be an object"),
        (("branches", "global"), ..., "has no global"),
        (MASS, {}, "calibration.json, global, Mass has no thresholds"),
        ((*MASS, "platt", "slope"), float("nan"),
         "calibration.json, global, Mass, platt: slope is nan; it must be a number, finite"),
        ((*MASS, "platt", "slope"), "1.2", "platt: slope is '1.2'; it must be a number"),
        ((*MASS, "platt", "intercept"), 10**400, "intercept is 1000"),
        ((*MASS, "platt", "intercept"), ..., "platt has no intercept"),
        ((*MASS, "platt"), 0, "platt is 0; it must be an object"),
        (YOUDEN, 0, "global, Mass: youden is 0; it must be an object"),
        (YOUDEN, ..., "has no youden"),
        ((*YOUDEN, "logit"), True, "logit is True; it must be a number"),
        ((*YOUDEN, "logit"), float("inf"), "logit is inf; it must be a number, finite"),
        ((*YOUDEN, "probability"), 1.5, "probability is 1.5; it must be a number, at least 0 and"),
        ((*YOUDEN, "probability"), 0, "probability is 0, but that of logit"),
        (("features", "noise"), 0, "features: noise is 0; it must be a number, above 0"),
        (("features", "threshold"), float("nan"), "threshold is nan"),
        (("features", "mean"), ..., "features has no mean"),
        (("features", "mean", "shape"), [9], "mean is no array"),
        (("features", "mean", "float32"), "AAAA", "mean is no array"),
        (("features", "mean", "float32"), "AADAfw" * 8, "mean is no array"),
        (("features", "variances", "shape"), [1, 7], "not those of a distribution"),
        (("features",), 1, "calibration.json: features is 1; it must be an object"),
    ],
)  # fmt: skip
def test_a_value_that_is_impossible_is_named(damaged, place, value, words):
    with pytest.raises(UserError) as caught:
        read_calibration(damaged(*place, value=value), WEIGHTS)
    assert words in str(caught.value)
    assert "calibration.json" in str(caught.value)
    assert str(caught.value).endswith("delete it and run eval.py again, which writes it anew")


def test_an_array_that_is_not_finite(damaged, drawn):
    bad = base64.b64encode(np.full(8, np.nan, "<f4").tobytes()).decode()
    with pytest.raises(UserError, match="features: the arrays are not those of a distribution"):
        read_calibration(damaged("features", "mean", "float32", value=bad), WEIGHTS)
