"""The loss where labels are missing: the sum over the known ones, divided by their number."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from agcnn_jax.config.strategies import Stage
from agcnn_jax.data.labels import MISSING
from agcnn_jax.models.agcnn import AGCNN
from agcnn_jax.run.recipe import Recipe
from agcnn_jax.runtime.devices import BATCH_AXIS, device_mesh, replicate, shard_batch
from agcnn_jax.training.schedule import sgd
from agcnn_jax.training.steps import binary_cross_entropy, init_state, known_cross_entropy
from tests.support.small_steps import make_batch, make_recipe, make_step, make_variables
from tests.support.small_steps import split_variables as split

STORED, INPUT, BATCH = 48, 42, 32
LABELS, FEATURES = 5, 6
FUSION = Stage(3, ("fusion",))
OPTIMIZER = sgd(1.0, drop_step=99, drop_factor=1.0, momentum=0.0, weight_decay=0.0)[0]
"""Without momentum and decay, so that a step's change is the gradient."""


class Pixels(nn.Module):
    """A backbone without weights, which compiles at once."""

    axis_name: str = BATCH_AXIS
    dtype: object = None

    def __call__(self, x, train):
        return x


RECIPE = Recipe(
    AGCNN(Pixels(), LABELS, pooling="avg", mean=(0.5,), std=(0.25,)),
    seed=0,
    input_size=4,
    augmentation=None,
    missing_labels=True,
)


def draw(seed=0):
    """Draw a batch of the host cropper, and the weights of the fusion branch."""
    rng = np.random.default_rng(seed)
    batch = {
        "local_images": rng.uniform(0, 255, (BATCH, 4, 4)).astype(np.float32),
        "pooled_global": rng.standard_normal((BATCH, FEATURES)).astype(np.float32),
        "labels": rng.integers(0, 2, (BATCH, LABELS), np.uint8),
    }
    head = {"kernel": rng.standard_normal((FEATURES + 1, LABELS)), "bias": np.zeros(LABELS)}
    head = jax.tree.map(np.float32, head)
    return batch, {"params": {"fusion": {"head": head}}, "batch_stats": {"fusion": {}}}


def with_missing(labels, devices=8):
    """Hide 0 to 95 % of the labels of a row, and all of the fourth device's."""
    rng = np.random.default_rng(1)
    shares = rng.permutation(np.linspace(0, 0.95, len(labels)))[:, None]
    hidden = np.where(rng.random(labels.shape) < shares, MISSING, labels).astype(np.uint8)
    rows = len(labels) // devices
    hidden[3 * rows : 4 * rows] = MISSING
    return hidden


@functools.cache
def prepare(devices, accumulate):
    mesh = device_mesh(jax.devices()[:devices])
    return mesh, make_step(RECIPE, FUSION, OPTIMIZER, mesh, accumulate=accumulate)


def run_step(batch, variables, devices=1, accumulate=1):
    """Return the loss of a step and the gradients of the fusion branch's weights."""
    mesh, step = prepare(devices, accumulate)
    frozen = {"params": {"local": {"backbone": {}, "head": zero_head()}}}
    frozen |= {"batch_stats": {"local": {"backbone": {}}}}
    state = replicate(mesh, init_state(variables, OPTIMIZER))
    state, metrics = step(state, replicate(mesh, frozen), shard_batch(mesh, batch))
    assert float(metrics["loss"]) == float(metrics["loss_fusion"])
    before, after = (tree["params"]["fusion"]["head"] for tree in (variables, state.variables))
    return float(metrics["loss"]), jax.tree.map(
        lambda old, new: old - np.asarray(new), before, after
    )


def zero_head():
    return {"kernel": np.zeros((1, LABELS), np.float32), "bias": np.zeros(LABELS, np.float32)}


def by_hand(batch, variables):
    """The loss of each label and the gradients, in NumPy's float64; missing labels have 0."""
    head, labels = variables["params"]["fusion"]["head"], batch["labels"]
    pooled = ((batch["local_images"].astype(float) / 255 - 0.5) / 0.25).mean((1, 2))
    features = np.column_stack([batch["pooled_global"].astype(float), pooled])
    logits = features @ head["kernel"] + head["bias"]
    known = labels != MISSING
    losses = np.where(known, np.logaddexp(0, logits) - logits * (labels == 1), 0)
    slopes = np.where(known, 1 / (1 + np.exp(-logits)) - (labels == 1), 0) / known.sum()
    return losses, {"kernel": features.T @ slopes, "bias": slopes.sum(0)}


@pytest.mark.parametrize(("devices", "accumulate"), [(1, 1), (1, 4), (8, 1), (8, 2)])
def test_a_step_is_by_hand_whatever_shares_the_batch(devices, accumulate):
    batch, variables = draw()
    batch["labels"] = with_missing(batch["labels"])
    losses, gradients = by_hand(batch, variables)
    known = (batch["labels"] != MISSING).sum(1)
    loss, ours = run_step(batch, variables, devices, accumulate)
    assert loss == pytest.approx(losses.sum() / known.sum(), rel=1e-6)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(ours[name], gradient, rtol=0, atol=1e-6, err_msg=name)
    # A mean over devices of means, or one over all labels, is far off.
    shares = losses.reshape(8, -1).sum(1) / np.maximum(known.reshape(8, -1).sum(1), 1)
    assert abs(shares.mean() / loss - 1) > 0.05
    assert losses.mean() < 0.6 * loss


def test_where_all_labels_are_known_it_is_the_mean():
    batch, variables = draw()
    losses, gradients = by_hand(batch, variables)
    loss, ours = run_step(batch, variables, 8, 2)
    assert loss == pytest.approx(losses.mean(), rel=1e-6)
    np.testing.assert_allclose(ours["kernel"], gradients["kernel"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("devices", "accumulate"), [(1, 1), (8, 2)])
def test_a_batch_without_known_labels_changes_nothing(devices, accumulate):
    batch, variables = draw()
    batch["labels"] = np.full_like(batch["labels"], MISSING)
    loss, gradients = run_step(batch, variables, devices, accumulate)
    assert loss == 0
    assert all((gradient == 0).all() for gradient in gradients.values())


def test_films_without_known_labels_change_no_bit():
    batch, variables = draw()
    batch["labels"] = with_missing(batch["labels"])
    others, _ = draw(seed=1)
    hidden = (batch["labels"] == MISSING).all(1)
    assert 4 <= hidden.sum() < BATCH / 2
    changed = {
        name: np.where(hidden.reshape(-1, *[1] * (rows.ndim - 1)), others[name], rows)
        for name, rows in batch.items()
        if name != "labels"
    }
    ours = run_step(batch, variables, 8, 2)
    theirs = run_step({**changed, "labels": batch["labels"]}, variables, 8, 2)
    assert ours[0] == theirs[0]
    jax.tree.map(np.testing.assert_array_equal, ours[1], theirs[1])


def test_the_sum_by_hand():
    logits = jnp.array([[0.0, 2.0, 9.0], [-1.0, 3.0, 5.0]])
    labels = jnp.array([[1, 0, MISSING], [MISSING, 1, MISSING]], jnp.uint8)
    expected = np.log(2) + np.log1p(np.exp(2.0)) + np.log1p(np.exp(-3.0))
    assert float(known_cross_entropy(logits, labels)) == pytest.approx(expected, rel=1e-6)


value_and_slope = jax.jit(jax.value_and_grad(known_cross_entropy))
numbers = st.floats(-100, 100, width=32)


@settings(max_examples=50)
@given(
    logits=hnp.arrays(np.float32, (4, 3), elements=numbers),
    others=hnp.arrays(np.float32, (4, 3), elements=numbers | st.sampled_from([np.nan, np.inf])),
    labels=hnp.arrays(np.uint8, (4, 3), elements=st.sampled_from([0, 1, MISSING])),
)
def test_logits_of_missing_labels_change_no_bit(logits, others, labels):
    loss, slopes = value_and_slope(logits, labels)
    changed = np.where(labels == MISSING, others, logits)
    for ours, theirs in zip((loss, slopes), value_and_slope(changed, labels), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (np.asarray(slopes)[labels == MISSING] == 0).all()
    assert np.isfinite(loss)


def test_the_mean_refuses_missing_labels():
    labels = np.array([[0, 1, MISSING]], np.uint8)
    with pytest.raises(ValueError, match="labels are missing"):
        binary_cross_entropy(jnp.zeros((1, 3)), labels)


@pytest.mark.slow
@pytest.mark.parametrize("branches", [("global",), ("global", "local", "fusion")], ids="+".join)
def test_eight_devices_train_a_network_as_one_does(branches):
    recipe = dataclasses.replace(make_recipe(INPUT), missing_labels=True)
    batch, stage = make_batch(BATCH, STORED), Stage(1, branches)
    batch["labels"] = with_missing(batch["labels"])
    trained, frozen = split(make_variables(recipe), stage)
    ends = []
    for devices in (1, 8):
        mesh = device_mesh(jax.devices()[:devices])
        step = make_step(recipe, stage, sgd(0.1, 99, 10.0, 0.9, 1e-4)[0], mesh)
        state = replicate(mesh, init_state(trained, sgd(0.1, 99, 10.0, 0.9, 1e-4)[0]))
        ends.append(step(state, replicate(mesh, frozen), shard_batch(mesh, batch)))
    (one, metrics_one), (eight, metrics_eight) = jax.device_get(ends)
    assert metrics_eight["loss"] == pytest.approx(metrics_one["loss"], rel=1e-4)
    for (path, a), b in zip(
        jax.tree.leaves_with_path(one.variables), jax.tree.leaves(eight.variables), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4, err_msg=jax.tree_util.keystr(path))
