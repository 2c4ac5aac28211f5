"""The host cropper: the same boxes and crops as the device's, and nothing computed twice."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agcnn_jax.attention.attend import attend
from agcnn_jax.attention.regions import region_boxes_device
from agcnn_jax.attention.resample import crop_and_resize
from agcnn_jax.attention.stored import Stored, crop_stored
from agcnn_jax.config.strategies import Stage
from agcnn_jax.data.augment import augmented_views
from agcnn_jax.models.agcnn import apply_branch
from agcnn_jax.runtime.devices import (
    REPLICATED,
    SHARDED,
    data_parallel,
    device_mesh,
    replicate,
    shard_batch,
)
from agcnn_jax.training.host_crop import make_host_cropper
from agcnn_jax.training.inputs import training_inputs
from agcnn_jax.training.schedule import sgd
from agcnn_jax.training.steps import attended_masks, init_state
from tests.support.small_steps import make_step, split_variables

# Not a multiple of 8, so that a row of a mask ends within a byte.
STORED, INPUT, BATCH = 48, 42, 8
LOCAL, FUSION, BOTH = (
    Stage(2, branches) for branches in (("local",), ("fusion",), ("local", "fusion"))
)


def mesh_of(devices):
    return device_mesh(jax.devices()[:devices])


@functools.cache
def optimizer():
    return sgd(0.1, drop_step=1000, drop_factor=10.0, momentum=0.9, weight_decay=1e-4)[0]


@pytest.fixture(scope="module")
def steps(recipe):
    """`steps(stage, crop_from)`: the stage's step on one device."""

    @functools.cache
    def prepare(stage, crop_from):
        changed = dataclasses.replace(recipe, crop_from=crop_from)
        return make_step(changed, stage, optimizer(), mesh_of(1))

    return prepare


def arguments(variables, stage, batch):
    trained, frozen = split_variables(variables, stage)
    mesh = mesh_of(1)
    state = replicate(mesh, init_state(trained, optimizer()))
    return state, replicate(mesh, frozen), shard_batch(mesh, batch)


@pytest.fixture(scope="module")
def expected(recipe, variables, batch):
    """What the global branch and the device's cropper make of the batch of step 3."""

    @jax.jit
    def crop(variables):
        images = training_inputs(batch, jnp.int32(3), recipe).images
        output, _ = apply_branch(recipe.model, variables, "global", images, train=False)
        heat, _, boxes, local_images = attend(images, output.feature_map, "max", recipe.tau)
        return {
            "images": images,
            "local_images": local_images,
            "boxes": boxes,
            "masks": heat > recipe.tau,
            "pooled_global": output.pooled,
        }

    # BatchNorm has one device's axis to average over.
    mapped = data_parallel(crop, mesh_of(1), (REPLICATED,), SHARDED)
    return jax.device_get(mapped(replicate(mesh_of(1), variables)))


@pytest.mark.parametrize(
    ("on_host", "devices"),
    [(True, 1), pytest.param(True, 4, marks=pytest.mark.slow), (False, 4)],
    ids=["opencv-1", "opencv-4", "device-4"],
)
def test_crops_are_those_of_the_device(recipe, variables, batch, expected, devices, on_host):
    mesh = mesh_of(devices)
    crop = make_host_cropper(recipe, replicate(mesh, variables), mesh, on_host)
    made = crop({**batch, "step": 3})
    assert set(made) == {"local_images", "pooled_global", "labels"}
    assert all(len(array.sharding.device_set) == devices for array in made.values())
    # Some box is not the whole image, or nothing would be tested.
    assert (np.diff(expected["boxes"].reshape(-1, 2, 2), axis=1) < INPUT).any()
    error = np.abs(made["local_images"] - expected["local_images"]).max()
    assert error < 255 * 1e-4
    np.testing.assert_allclose(made["pooled_global"], expected["pooled_global"], rtol=1e-5)
    np.testing.assert_array_equal(made["labels"], batch["labels"])


@pytest.mark.parametrize(
    ("local_input", "crop_from", "on_host"),
    [
        ("centred", "input", True),
        pytest.param("crop", "stored", True, marks=pytest.mark.slow),
        ("centred", "stored", False),
    ],
)
def test_other_crops(recipe, variables, batch, expected, local_input, crop_from, on_host):
    changed = dataclasses.replace(recipe, local_input=local_input, crop_from=crop_from)
    made = make_host_cropper(changed, variables, mesh_of(1), on_host)({**batch, "step": 3})
    boxes = expected["boxes"]
    if local_input == "centred":
        xmin, ymin, xmax, ymax = boxes.T
        left, top = (INPUT - (xmax - xmin)) // 2, (INPUT - (ymax - ymin)) // 2
        boxes = np.stack([left, top, left + xmax - xmin, top + ymax - ymin], axis=1)
    if crop_from == "stored":
        drawn = batch["record"], 3, recipe.seed, STORED, recipe.augmentation
        stored = Stored(batch["image"], *augmented_views(*drawn))
        assert 0 < stored.mirrored.sum() < BATCH
        wanted = crop_stored(stored, boxes, INPUT, np.float32)
    else:
        wanted = crop_and_resize(expected["images"], boxes, INPUT)
    assert np.abs(made["local_images"] - wanted).max() < 255 * 1e-4
    # Crops differ from the usual ones, or nothing would be tested.
    assert np.abs(made["local_images"] - expected["local_images"]).max() > 10


def test_masks_travel_as_bits(recipe, variables, batch, expected):
    routine = data_parallel(
        functools.partial(attended_masks, recipe=recipe),
        mesh_of(1),
        (REPLICATED, SHARDED, REPLICATED),
        SHARDED,
    )
    made = jax.device_get(routine(variables, batch, jnp.int32(3)))
    assert made["masks"].dtype == np.uint8
    assert made["masks"].nbytes == BATCH * INPUT * -(-INPUT // 8)
    masks = np.unpackbits(made["masks"], axis=-1, count=INPUT)
    np.testing.assert_array_equal(masks, expected["masks"])
    np.testing.assert_array_equal(region_boxes_device(masks.astype(bool)), expected["boxes"])
    np.testing.assert_allclose(made["images"], expected["images"], rtol=1e-6)
    # The crops are drawn for a step.
    other = routine(variables, batch, jnp.int32(4))
    assert not np.array_equal(other["images"], made["images"])


@pytest.mark.parametrize(
    ("stage", "crop_from"),
    [
        pytest.param(LOCAL, "input", marks=pytest.mark.slow),
        (FUSION, "input"),
        pytest.param(FUSION, "stored", marks=pytest.mark.slow),
    ],
    ids=lambda one: getattr(one, "name", one),
)
def test_a_stage_trains_as_with_the_device_cropper(
    recipe, variables, batch, steps, stage, crop_from
):
    recipe = dataclasses.replace(recipe, crop_from=crop_from)
    crop = make_host_cropper(recipe, variables, mesh_of(1))
    made = crop({**batch, "step": 0})
    assert set(made) == {"local_images", "pooled_global", "labels"}
    results = []
    for given in (jax.device_get(made), batch):
        state, metrics = steps(stage, crop_from)(*arguments(variables, stage, given))
        results.append((metrics, state.variables["batch_stats"], state.variables["params"]))
    (losses, statistics, weights), others = results[0], results[1]
    for name, loss in losses.items():
        assert float(loss) == pytest.approx(float(others[0][name]), rel=1e-4)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3), statistics, others[1])
    # Through a backbone, rounding that flips a ReLU changes a gradient by more.
    tolerance = {"rtol": 1e-4, "atol": 1e-6} if stage is FUSION else {"rtol": 0, "atol": 5e-3}
    jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerance), weights, others[2])


def operations(function, *given):
    return function.lower(*given).compile().cost_analysis()["flops"]


def test_the_fusion_stage_runs_each_frozen_backbone_once(recipe, variables, batch, steps, expected):
    """In operations that the compiler counts: those of one pass of a backbone, and little else."""

    def branch(variables, images):
        output, _ = apply_branch(recipe.model, variables, "local", images, train=False)
        return output.pooled

    one = mesh_of(1)
    images = jnp.asarray(expected["images"])
    once = operations(data_parallel(branch, one, (REPLICATED, SHARDED), SHARDED), variables, images)
    augmenting = operations(jax.jit(lambda: training_inputs(batch, jnp.int32(3), recipe).images))
    made = {name: expected[name] for name in ("local_images", "pooled_global")}
    given = arguments(variables, FUSION, {**made, "labels": batch["labels"]})
    assert 0.95 * once < operations(steps(FUSION, "input"), *given) < 1.1 * once
    routine = data_parallel(
        functools.partial(attended_masks, recipe=recipe),
        one,
        (REPLICATED, SHARDED, REPLICATED),
        SHARDED,
    )
    stored = {name: jnp.asarray(batch[name]) for name in ("image", "record")}
    pipeline = operations(routine, variables, stored, jnp.int32(3))
    assert 0.95 * once < pipeline < 1.1 * once + augmenting
