"""Predictions: the centre crop, or ten crops, and regions of them; validation scores."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from agcnn_jax.config.strategies import Stage
from agcnn_jax.data.labels import FINDINGS, LABELS, MISSING
from agcnn_jax.models.agcnn import BRANCHES, init_variables
from agcnn_jax.runtime.devices import device_mesh, replicate, shard_batch
from agcnn_jax.training import prediction
from agcnn_jax.training.predict_step import EXTRAS, make_predict_step, predict_step
from agcnn_jax.training.prediction import Prediction, Selection, select_findings
from agcnn_jax.training.stage import describe_selection
from tests.support.small_steps import make_batch, make_recipe, make_variables


@pytest.mark.parametrize(
    ("local_input", "branches", "boxes"),
    [
        ("crop", {"global", "fusion"}, True),
        ("centred", {"global", "fusion"}, True),
        ("image", {"fusion"}, False),
        ("crop", {"global"}, False),
    ],
)
def test_boxes_are_of_crops_that_were_read(local_input, branches, boxes):
    recipe = dataclasses.replace(make_recipe(32), local_input=local_input)
    shapes = jax.eval_shape(
        lambda key: init_variables(recipe.model, key, recipe.input_size), jax.random.key(0)
    )
    step = functools.partial(predict_step, recipe=recipe, branches=branches)
    outputs = jax.eval_shape(step, shapes, jax.ShapeDtypeStruct((2, 40, 40), jnp.uint8))
    assert ("boxes" in outputs) == boxes
    assert set(outputs) - {"boxes"} == branches


@pytest.mark.parametrize(
    ("crop_from", "local_input", "crops"),
    [("input", "crop", "centre"), ("stored", "centred", "ten")],
)
def test_with_the_host_in_between_predicts_what_one_program_does(crop_from, local_input, crops):
    recipe = dataclasses.replace(make_recipe(32), crop_from=crop_from, local_input=local_input)
    variables, images = make_variables(recipe), make_batch(8, 40)["image"]
    asked = {"branches": BRANCHES, "crops": crops, "extras": EXTRAS}
    one = jax.jit(functools.partial(predict_step, recipe=recipe, **asked))(variables, images)
    mesh = device_mesh(jax.devices()[:4])
    step = make_predict_step(recipe, mesh, **asked)
    assert not hasattr(step, "lower")  # this is a CPU: not one compiled program
    two = jax.device_get(step(replicate(mesh, variables), shard_batch(mesh, images)))
    assert set(two) == set(one) == {*BRANCHES, *EXTRAS, "boxes"}
    np.testing.assert_array_equal(two["boxes"], one["boxes"])
    assert len(np.unique(two["boxes"], axis=0)) > 1
    for name in (*BRANCHES, *EXTRAS):
        np.testing.assert_allclose(two[name], one[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("crop_from", ["input", pytest.param("stored", marks=pytest.mark.slow)])
def test_ten_crops_are_averaged_on_one_and_on_many_devices(crop_from):
    # Stored images are as large as the margins need, so that no crop is resized.
    recipe, stored, side = make_recipe(56), 64, 56
    variables, images = make_variables(recipe), make_batch(8, stored)["image"]
    far = stored - side
    crops = [
        images[:, y : y + side, x : x + side]
        for x, y in [(far // 2, far // 2), (0, 0), (far, 0), (0, far), (far, far)]
    ]
    crops += [crop[:, :, ::-1] for crop in crops]
    # The centre crop of an image that is padded to the stored size is the crop itself.
    padded = [np.pad(crop, ((0, 0), (4, 4), (4, 4))) for crop in crops]
    mesh = device_mesh(jax.devices()[:1])
    centre = make_predict_step(recipe, mesh, BRANCHES)
    each = [jax.device_get(centre(variables, image)) for image in padded]
    expected = {
        branch: np.mean([expit(one[branch]) for one in each], axis=0) for branch in BRANCHES
    }
    # The input copies stored pixels, so crops of either are the same.
    recipe = dataclasses.replace(recipe, crop_from=crop_from)
    for devices in (1, 4):
        mesh = device_mesh(jax.devices()[:devices])
        step = make_predict_step(recipe, mesh, BRANCHES, "ten")
        ten = jax.device_get(step(replicate(mesh, variables), shard_batch(mesh, images)))
        for branch in BRANCHES:
            # Rounding a logit of -23 alone moves its tiny probability by some 1e-6 of itself.
            np.testing.assert_allclose(expit(ten[branch]), expected[branch], rtol=1e-5, atol=1e-9)
            assert np.abs(ten[branch] - each[0][branch]).max() > 1e-4
        np.testing.assert_array_equal(ten["boxes"], each[0]["boxes"])


def make_run(label_matrix, patients, has_missing=True):
    """A run of these validation images, between images of other subsets."""
    count = len(label_matrix)
    others = np.tile(np.uint8([[0], [1]]), (20, len(LABELS)))
    records = types.SimpleNamespace(
        labels=LABELS,
        findings=FINDINGS,
        finding_columns=np.arange(len(FINDINGS)),
        has_missing=has_missing,
        label_matrix=np.vstack([others, label_matrix, others]),
        patient_ids=np.array([*map(str, range(40)), *patients, *map(str, range(40))]),
    )
    split = types.SimpleNamespace(validation=np.arange(40, 40 + count))
    return types.SimpleNamespace(records=records, split=split, recipe=None, mesh=None)


def known_in(patients):
    """Labels of 40 patients with two images each: a finding is known of its number of patients."""
    labels = np.full((80, len(LABELS)), MISSING, np.uint8)
    for finding, (positive, negative) in patients.items():
        column = labels[:, LABELS.index(finding)]
        column[: 2 * positive], column[len(column) - 2 * negative :] = 1, 0
    return labels, [f"p{i // 2}" for i in range(80)]


ENOUGH = {"Mass": (10, 10), "Edema": (12, 20), "No Finding": (15, 15)}
TOO_FEW = {"Nodule": (9, 30), "Hernia": (30, 9), "Fibrosis": (1, 1)}


def test_findings_that_enough_patients_are_known_to_have_select():
    """Patients count, not images; "No Finding" is no finding."""
    chosen = select_findings(make_run(*known_in(TOO_FEW | ENOUGH)))
    assert chosen == Selection(("Mass", "Edema"), 10)
    assert describe_selection(Stage(2, ("local",)), chosen, 14) == (
        "stage 2_local: labels are missing; the mean validation AUC covers the 2 of 14 findings "
        "with at least 10 positive and 10 negative known validation patients: Mass, Edema"
    )


def test_without_such_a_finding_those_with_an_auc_select():
    only_positive = {"Cardiomegaly": (20, 0)}
    chosen = select_findings(make_run(*known_in(TOO_FEW | only_positive)))
    assert chosen == Selection(("Nodule", "Fibrosis", "Hernia"), 1)
    assert describe_selection(Stage(1, ("global",)), chosen, 14) == (
        "stage 1_global: labels are missing; the mean validation AUC covers the 3 of 14 findings "
        "that have one, since none has 10 positive and 10 negative known validation patients: "
        "Nodule, Fibrosis, Hernia"
    )
    none = select_findings(make_run(*known_in(only_positive)))
    assert none.findings == ()
    assert "no finding has a validation AUC" in describe_selection(Stage(1, ("global",)), none, 14)


def test_where_no_label_is_missing_all_findings_select():
    labels = np.zeros((80, len(LABELS)), np.uint8)
    labels[:4, 0] = 1
    run = make_run(labels, range(80), has_missing=False)
    assert select_findings(run) == Selection(FINDINGS, 0)


def test_validation_scores_the_known_labels_alone(monkeypatch):
    labels, patients = known_in(TOO_FEW | ENOUGH)
    run, rng = make_run(labels, patients), np.random.default_rng(0)
    scores = rng.standard_normal(labels.shape).astype(np.float32)
    state = types.SimpleNamespace(variables={"params": {}, "batch_stats": {}})
    monkeypatch.setattr(prediction, "make_predict_step", lambda *arguments: None)

    def validate(scores):
        predicted = Prediction({"global": scores}, None)
        monkeypatch.setattr(prediction, "predict", lambda *given, **options: predicted)
        validation = prediction.make_validation(run, Stage(1, ("global",)), state.variables)
        return validation(state, lambda: None)

    ours = validate(scores)
    for column, finding in enumerate(FINDINGS):
        known = labels[:, column] != MISSING
        auc = ours["val_auc"]["global"][finding]
        if known.any():
            reference = roc_auc_score(labels[known, column], scores[known, column])
            assert auc == pytest.approx(reference, abs=1e-12)
        else:
            assert auc is None
    mean = np.mean([ours["val_auc"]["global"][finding] for finding in ("Mass", "Edema")])
    assert ours["val_auc_mean"] == ours["val_auc_mean_global"] == pytest.approx(mean, abs=1e-12)
    assert ours["val_auc_findings"] == 2
    changed = np.where(labels == MISSING, rng.standard_normal(labels.shape), scores)
    assert validate(changed.astype(np.float32)) == ours
