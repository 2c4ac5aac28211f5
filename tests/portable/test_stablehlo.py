"""The StableHLO program's outputs against those of the package, here and elsewhere."""

import dataclasses
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from scipy.special import expit

from agcnn_jax import export
from agcnn_jax.data.films import load_film, resize_film
from agcnn_jax.inference import formats
from agcnn_jax.inference.model_files import to_safetensors
from agcnn_jax.metrics.feature_distance import FeatureStatistics, feature_distances
from agcnn_jax.models.agcnn import BRANCHES, select_branches
from agcnn_jax.portable import stablehlo
from agcnn_jax.portable.stablehlo import PLATFORMS, stablehlo_files
from agcnn_jax.portable.stablehlo_loader import PROGRAM, load
from agcnn_jax.run.recipe import Recipe
from agcnn_jax.runtime.errors import UserError
from tests.inference.tiny_model import tiny_model
from tests.portable.models import expected_outputs, settled_variables, smooth_images
from tests.portable.test_onnx_model import STORED, make_recipe
from tests.support.shared import CHEST_XRAY14, needs_chest_xray14

pytestmark = pytest.mark.usefixtures("quick_compilation")

OTHERS = os.environ.get("JAX_PYTHONS", "").split()
"""Interpreters of other environments, which have jax, numpy and flatbuffers."""

READER = """
import sys
sys.path.insert(0, sys.argv[1])
sys.modules["agcnn_jax"] = None
import numpy as np
from load import load
images = np.load(sys.argv[2])
answer = load()(images)
assert not {"agcnn_jax.models", "flax"} & set(sys.modules)
np.savez(sys.argv[3], boxes=answer["boxes"], **answer["probabilities"])
"""


def written(folder, variables, recipe, image_size, features=None, precision=None):
    folder.mkdir(exist_ok=True)
    files = stablehlo_files(variables, recipe, image_size, features, precision)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def check(answer, expected, branches=BRANCHES):
    boxes = None if answer.get("boxes") is None else np.asarray(answer["boxes"])
    np.testing.assert_array_equal(boxes, expected.get("boxes"))
    np.testing.assert_allclose(answer["heat_maps"], expected["heat_maps"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(answer["pooled"], expected["pooled"], rtol=1e-4, atol=1e-5)
    assert set(answer["logits"]) == set(answer["probabilities"]) == set(branches)
    for branch in branches:
        probability = expit(np.asarray(expected[branch]))
        np.testing.assert_allclose(
            answer["probabilities"][branch], probability, rtol=0, atol=1e-5, err_msg=branch
        )
        np.testing.assert_allclose(
            answer["logits"][branch], expected[branch], rtol=1e-4, atol=1e-4, err_msg=branch
        )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A model, 8 images, and the folder of its program."""
    model = tiny_model()
    folder = tmp_path_factory.mktemp("program")
    written(folder, model.variables, model.recipe, model.image_size)
    return model, smooth_images(8, 36), folder


def test_any_number_of_films(tiny):
    model, images, folder = tiny
    predict = load(folder)
    for count in (8, 3):
        expected = model.predict_batch(images[:count], heat_maps=True)
        check(predict(images[:count]), expected)


@needs_chest_xray14
def test_real_films(tiny):
    model, _, folder = tiny
    paths = sorted((CHEST_XRAY14 / "raw/images").glob("*.png"))[:8]
    films = np.stack([resize_film(load_film(path), model.image_size) for path in paths])
    check(load(folder)(films), model.predict_batch(films, heat_maps=True))


def test_films_on_several_devices(tiny):
    """They are computed where they lie."""
    model, images, folder = tiny
    mesh = jax.make_mesh((4,), ("B",), devices=jax.devices()[:4])
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("B"))
    answer = load(folder)(jax.device_put(images, rows))
    assert answer["logits"]["fusion"].sharding.is_equivalent_to(rows, 2)
    check(answer, model.predict_batch(images, heat_maps=True))


def test_one_program_is_for_all_platforms(tiny):
    program = jax.export.deserialize(bytearray((tiny[2] / PROGRAM).read_bytes()))
    assert program.platforms == PLATFORMS == ("cpu", "cuda", "tpu")
    assert program.nr_devices == 1
    assert str(program.in_avals[-1]) == "uint8[B,36,36]"
    # Max pooling by windows for TPUs, by views elsewhere.
    text = program.mlir_module()
    assert "stablehlo.case" in text and "stablehlo.reduce_window" in text
    assert "custom_call @LayoutConstraint" not in text


@pytest.mark.parametrize(
    ("network", "choices"),
    [
        pytest.param("densenet", {}, marks=pytest.mark.slow),
        pytest.param("resnet", {"statistic": "l2"}, marks=pytest.mark.slow),
        pytest.param("resnet", {"local_input": "image"}, marks=pytest.mark.slow),
        pytest.param("resnet", {"local_input": "centred"}, marks=pytest.mark.slow),
        pytest.param("resnet", {"crop_from": "stored"}, marks=pytest.mark.slow),
        pytest.param("resnet", {"pooling": "avg"}, marks=pytest.mark.slow),
    ],
)
def test_choices_of_a_config(network, choices, tmp_path):
    recipe = make_recipe(network, **choices)
    images = smooth_images(4, STORED)
    variables = settled_variables(recipe, images)
    answer = load(written(tmp_path, variables, recipe, STORED))(images)
    check(answer, expected_outputs(recipe, variables, images))


@pytest.mark.slow
def test_a_bfloat16_run(tiny, tmp_path):
    model, images, _ = tiny
    model = dataclasses.replace(model, config={**model.config, "dtype": "bfloat16"})
    folder = written(tmp_path, model.variables, model.recipe, model.image_size)
    assert (
        "bf16" in jax.export.deserialize(bytearray((folder / PROGRAM).read_bytes())).mlir_module()
    )
    answer, expected = load(folder)(images), model.predict_batch(images)
    np.testing.assert_array_equal(answer["boxes"], expected["boxes"])
    for branch in BRANCHES:
        # Two programs round to bfloat16 in different places.
        probability = expit(np.asarray(expected[branch]))
        np.testing.assert_allclose(answer["probabilities"][branch], probability, atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_the_first_branches_alone(count, tiny, tmp_path):
    model, images, _ = tiny
    branches = BRANCHES[:count]
    part = select_branches(model.variables, branches)
    answer = load(written(tmp_path, part, model.recipe, model.image_size))(images)
    expected = model.predict_batch(images, heat_maps=True)
    if count == 1:
        expected = {name: value for name, value in expected.items() if name != "boxes"}
    check(answer, expected, branches)


def test_distances():
    """In float32, where the difference of two squares would lose its digits."""
    rng = np.random.default_rng(0)
    components, _ = np.linalg.qr(rng.standard_normal((64, 2)))
    features = FeatureStatistics(
        mean=rng.random(64).astype(np.float32),
        components=components.T.astype(np.float32),
        variances=np.array([3.0, 0.5], np.float32),
        noise=3e-6,
        threshold=700.0,
    )
    pooled = features.mean + rng.normal(size=(50, 64)).astype(np.float32)
    along = rng.normal(size=(50, 2)) @ features.components
    pooled = np.concatenate([pooled, features.mean + along + 1e-2]).astype(np.float32)
    found = jax.jit(lambda x: stablehlo.distances(features, x))(pooled)
    np.testing.assert_allclose(found, feature_distances(features, pooled), rtol=1e-5)


@pytest.mark.slow
def test_precision_is_the_runs_whatever_the_readers(tiny, tmp_path):
    model, _, folder = tiny
    high = written(tmp_path, model.variables, model.recipe, 36, precision="highest")
    for place, highest in ((folder, False), (high, True)):
        program = jax.export.deserialize(bytearray((place / PROGRAM).read_bytes()))
        lines = program.mlir_module().splitlines()
        convolutions = [line for line in lines if "stablehlo.convolution" in line]
        assert convolutions
        assert all(("precision HIGHEST" in line) == highest for line in convolutions)


def test_a_float64_run_is_refused(monkeypatch):
    monkeypatch.setattr(Recipe, "image_dtype", np.dtype("float64"))
    with pytest.raises(UserError, match=r"config\.dtype is float64, .* --format stablehlo exports"):
        stablehlo_files({"params": {}}, tiny_model().recipe, 36, None, None)


@pytest.mark.slow
@pytest.mark.parametrize("python", [sys.executable, *OTHERS])
def test_it_is_read_without_the_package(python, tiny, tmp_path):
    """By the Python of this environment, and by those of `JAX_PYTHONS`."""
    model, images, folder = tiny
    np.save(tmp_path / "images.npy", images)
    environment = {name: x for name, x in os.environ.items() if name != "PYTHONPATH"}
    command = [python, "-I", "-c", READER, folder, tmp_path / "images.npy", tmp_path / "made.npz"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    expected = model.predict_batch(images)
    with np.load(tmp_path / "made.npz") as made:
        np.testing.assert_array_equal(made["boxes"], expected["boxes"])
        for branch in BRANCHES:
            probability = expit(np.asarray(expected[branch]))
            np.testing.assert_allclose(made[branch], probability, rtol=0, atol=1e-5)


def test_the_formats_files(tiny):
    model = tiny[0]
    weights = to_safetensors(model.variables)
    assert formats.model_files(model, "hub") == {"model.safetensors": weights}
    assert set(formats.model_files(model, "stablehlo")) == set(stablehlo.FILES)
    assert set(formats.model_files(model, "onnx")) == {"model.onnx"}
    assert export.FOLDERS == formats.FORMATS
