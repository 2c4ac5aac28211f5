"""The ONNX model's outputs against those of the package, in both runtimes."""

import dataclasses
import itertools
import json

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from scipy.special import expit

import agcnn_jax
from agcnn_jax.attention import STATISTICS
from agcnn_jax.attention.crop import boxes_host
from agcnn_jax.data.augment import Augmentation
from agcnn_jax.inference.answers import branch_answers
from agcnn_jax.metrics.calibration import Line
from agcnn_jax.metrics.feature_distance import FeatureStatistics, feature_distances
from agcnn_jax.metrics.operating_points import RULES
from agcnn_jax.models import POOLINGS
from agcnn_jax.models.agcnn import AGCNN, BRANCHES, select_branches
from agcnn_jax.models.densenet import DenseNet
from agcnn_jax.models.resnet import ResNet
from agcnn_jax.portable import networks
from agcnn_jax.portable.graph import Graph
from agcnn_jax.portable.onnx_model import onnx_model
from agcnn_jax.run.calibration import Calibration, Choice
from agcnn_jax.run.recipe import Recipe
from agcnn_jax.runtime.errors import USAGE_STATUS, UserError
from tests.portable.engines import ENGINES, compiled
from tests.portable.models import expected_outputs, settled_variables, smooth_images
from tests.support.programs import run

pytestmark = pytest.mark.usefixtures("quick_compilation")

STORED, INPUT, IMAGES = 48, 40, 4
LABELS = ("", "Mass", "Edema")
NETWORKS = {
    "resnet": ResNet(blocks=(1, 1), width=8),
    "densenet": DenseNet(blocks=(2, 2), growth=8, stem=16),
}
CHOICES = list(
    itertools.product(STATISTICS, ("crop", "centred", "image"), ("input", "stored"), POOLINGS)
)


def make_recipe(
    network="resnet", statistic="max", local_input="crop", crop_from="input", pooling="max"
):
    model = AGCNN(NETWORKS[network], len(LABELS), pooling, mean=(0.4, 0.6), std=(0.2, 0.3))
    return Recipe(
        *(model, 0, INPUT, Augmentation(), statistic),
        tau=0.6,
        local_input=local_input,
        crop_from=crop_from,
    )


@pytest.fixture(scope="module")
def images():
    return smooth_images(IMAGES, STORED)


@pytest.fixture(scope="module")
def variables(images):
    """Weights for each network and pooling."""
    return {
        (network, pooling): settled_variables(make_recipe(network, pooling=pooling), images)
        for network, pooling in [*itertools.product(["resnet"], POOLINGS), ("densenet", "max")]
    }


def predicted(engine, content, images, tau=None):
    inputs = {"images": images}
    if tau is not None:
        inputs["tau"] = np.array(tau, np.float32)
    return compiled(engine, content)(**inputs)


def check(found, expected):
    for name, values in expected.items():
        assert found[name].shape == values.shape and found[name].dtype == values.dtype, name
    np.testing.assert_array_equal(found.get("boxes"), expected.get("boxes"))
    np.testing.assert_allclose(found["heat_maps"], expected["heat_maps"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found["pooled"], expected["pooled"], rtol=1e-4, atol=1e-5)
    for branch in BRANCHES:
        probability = expit(expected[branch])
        np.testing.assert_allclose(
            found[f"probability_{branch}"], probability, rtol=0, atol=1e-5, err_msg=branch
        )
        np.testing.assert_allclose(found[branch], expected[branch], rtol=1e-4, atol=1e-4)
        assert np.ptp(probability) > 0.3


def differing(choice):
    """Count what a choice has other than the first one."""
    return sum(one != other for one, other in zip(choice, CHOICES[0], strict=True))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("statistic", "local_input", "crop_from", "pooling"),
    [
        pytest.param(*choice, marks=[pytest.mark.slow] if differing(choice) > 1 else [])
        for choice in CHOICES
    ],
)
def test_every_choice_of_a_config(
    engine, statistic, local_input, crop_from, pooling, images, variables
):
    recipe = make_recipe("resnet", statistic, local_input, crop_from, pooling)
    weights = variables["resnet", pooling]
    content = onnx_model(weights, recipe, STORED, BRANCHES, LABELS)
    crops = local_input != "image"
    found = predicted(engine, content, images, recipe.tau if crops else None)
    expected = expected_outputs(recipe, weights, images)
    check(found, expected)
    assert ("boxes" in found) == crops
    if crops:
        areas = np.prod(found["boxes"][:, 2:] - found["boxes"][:, :2], axis=1)
        assert areas.min() < INPUT**2 / 2


@pytest.mark.parametrize("engine", ENGINES)
def test_densenet(engine, images, variables):
    recipe, weights = make_recipe("densenet"), variables["densenet", "max"]
    content = onnx_model(weights, recipe, STORED, BRANCHES, LABELS)
    check(predicted(engine, content, images, recipe.tau), expected_outputs(recipe, weights, images))


def some_calibration():
    """Platt's numbers for some labels, and features that vary in two directions."""
    rng = np.random.default_rng(0)
    thresholds = dict.fromkeys(RULES)
    choices = {"Mass": Choice(Line(0.7, -1.5), thresholds), "Edema": Choice(None, thresholds)}
    components, _ = np.linalg.qr(rng.standard_normal((64, 2)))
    features = FeatureStatistics(
        mean=rng.random(64).astype(np.float32),
        components=components.T.astype(np.float32),
        variances=np.array([3.0, 0.5], np.float32),
        noise=3e-6,  # the least that a fit gives
        threshold=700.0,
    )
    branches = {"global": choices, "local": choices, "fusion": {}}
    return Calibration(9, 9, True, branches, features)


@pytest.mark.parametrize("engine", ENGINES)
def test_calibration(engine, images, variables):
    recipe, weights, calibration = make_recipe(), variables["resnet", "max"], some_calibration()
    content = onnx_model(weights, recipe, STORED, BRANCHES, LABELS, calibration)
    found = predicted(engine, content, images, recipe.tau)
    assert list(found) == [
        *BRANCHES,
        *(f"probability_{branch}" for branch in BRANCHES),
        *(f"calibrated_{branch}" for branch in BRANCHES),
        *("pooled", "distance", "boxes", "heat_maps"),
    ]
    for i in range(IMAGES):
        logits = {branch: found[branch][i] for branch in BRANCHES}
        for branch, answer in branch_answers(logits, ("none", *LABELS[1:]), calibration).items():
            expected = np.array(list(answer.calibrated.values()), np.float64)
            made = found[f"calibrated_{branch}"][i]
            np.testing.assert_allclose(made, expected, rtol=0, atol=1e-6)
            assert np.isnan(made).tolist() == [True, branch == "fusion", True]
    features = calibration.features
    distances = feature_distances(features, found["pooled"]) / features.threshold
    assert found["distance"].shape == (IMAGES,)
    np.testing.assert_allclose(found["distance"], distances, rtol=1e-5)
    unknown = dataclasses.replace(calibration, features=None)
    content = onnx_model(weights, recipe, STORED, BRANCHES, LABELS, unknown)
    assert list(found.keys() - predicted(engine, content, images, recipe.tau)) == ["distance"]


@pytest.mark.parametrize("engine", ENGINES)
def test_the_first_branches_alone(engine, images, variables):
    recipe, weights = make_recipe(), variables["resnet", "max"]
    expected = expected_outputs(recipe, weights, images)
    for count in (1, 2):
        branches = BRANCHES[:count]
        content = onnx_model(select_branches(weights, branches), recipe, STORED, branches, LABELS)
        # Nothing reads a threshold where no local branch reads crops.
        found = predicted(engine, content, images, recipe.tau if count == 2 else None)
        names = {*branches, *(f"probability_{branch}" for branch in branches)}
        assert set(found) == names | {"pooled", "heat_maps"} | ({"boxes"} if count == 2 else set())
        for branch in branches:
            np.testing.assert_allclose(found[branch], expected[branch], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("engine", ENGINES)
def test_any_threshold_and_any_number_of_films(engine, images, variables):
    recipe, weights = make_recipe(), variables["resnet", "max"]
    run_model = compiled(engine, onnx_model(weights, recipe, STORED, BRANCHES, LABELS))
    whole = run_model(images=images, tau=np.array(0.6, np.float32))
    boxes = []
    for tau in (0.0, 0.5, 0.8, 1 - 1e-12, 7.0):
        found = run_model(images=images[1:], tau=np.array(tau, np.float32))
        heat = found["heat_maps"]
        # As float32, a threshold just below 1 is 1, which the highest pixels must exceed.
        below = np.float32(tau) if tau < 1 - 1e-6 else np.float32(1 - 1e-7)
        boxes.append(found["boxes"])
        np.testing.assert_array_equal(found["boxes"], boxes_host(heat > below))
        np.testing.assert_allclose(heat, whole["heat_maps"][1:], rtol=0, atol=1e-6)
        np.testing.assert_array_equal((heat.min((1, 2)), heat.max((1, 2))), [[0] * 3, [1] * 3])
    assert len({one.tobytes() for one in boxes}) == 4
    alone = run_model(images=images[:1], tau=np.array(0.6, np.float32))
    for name, values in alone.items():
        np.testing.assert_allclose(values, whole[name][:1], rtol=1e-4, atol=1e-5)


def test_what_the_file_says_about_itself(variables):
    recipe, weights = make_recipe(local_input="centred"), variables["resnet", "max"]
    content = onnx_model(weights, recipe, STORED, BRANCHES, LABELS, None, "0123abcd")
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 18)]
    facts = {one.key: one.value for one in model.metadata_props}
    assert (facts["program"], facts["digest"]) == ("agcnn-jax", "0123abcd")
    assert facts["version"] == model.producer_version == agcnn_jax.__version__
    read = {name: json.loads(facts[name]) for name in ("labels", "branches", "tau")}
    assert read == {"labels": list(LABELS), "branches": list(BRANCHES), "tau": 0.6}
    assert (facts["image_size"], facts["input_size"]) == (str(STORED), str(INPUT))
    assert facts["local_input"] == "centred"
    same = onnx_model(weights, recipe, STORED, BRANCHES, LABELS, None, "0123abcd")
    assert same == content


def of_dtype(recipe, dtype):
    backbone = ResNet(blocks=(1, 1), width=8, dtype=dtype)
    return dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, backbone=backbone))


def test_other_dtypes_of_a_run(variables):
    """Weights of a bfloat16 run are float32, in which its file computes."""
    recipe, weights = make_recipe(), variables["resnet", "max"]
    content = onnx_model(weights, of_dtype(recipe, jnp.bfloat16), STORED, BRANCHES, LABELS)
    assert content == onnx_model(weights, recipe, STORED, BRANCHES, LABELS)
    with pytest.raises(UserError, match=r"config.dtype is float64, .*another format"):
        onnx_model(weights, of_dtype(recipe, jnp.float64), STORED, BRANCHES, LABELS)


def test_a_backbone_without_a_form_is_named(variables):
    recipe = make_recipe()
    model = dataclasses.replace(recipe.model, backbone=nn.Dense(3))
    with pytest.raises(ValueError, match="Dense has no form in ONNX"):
        networks.features(Graph(), model.backbone, {}, {}, "images")


def test_the_missing_package_is_named():
    done = run(
        "-c",
        "import sys; sys.modules['onnx'] = None\n"
        "from agcnn_jax.runtime.errors import run\n"
        "def main():\n"
        "    import agcnn_jax.portable.graph\n"
        "run(main)",
        check=False,
    )
    assert done.returncode == USAGE_STATUS
    assert done.stderr.count("\n") == 1
    assert "needs onnx and onnxruntime (in a checkout: make install EXTRA=onnx)" in done.stderr
