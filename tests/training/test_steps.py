"""One step of every stage: what changes, by how much, and on how many devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agcnn_jax.config.strategies import STRATEGIES, Stage, stages
from agcnn_jax.models.agcnn import select_branches
from agcnn_jax.runtime.devices import device_mesh, replicate, shard_batch
from agcnn_jax.training.schedule import sgd
from agcnn_jax.training.steps import binary_cross_entropy, init_state
from tests.support.small_steps import make_step, split_variables

STORED, INPUT, BATCH = 48, 42, 8
# Without a cropper on the device, and with one; the others compile longer.
QUICK = (("global",), ("fusion",))
ALL_STAGES = sorted({branches for plan in STRATEGIES.values() for branches in plan})


def optimizer():
    return sgd(0.1, drop_step=1000, drop_factor=10.0, momentum=0.9, weight_decay=1e-4)[0]


@functools.cache
def prepare(recipe, stage, mesh):
    return make_step(recipe, stage, optimizer(), mesh)


def run_step(recipe, variables, batch, stage, devices=1, steps=1):
    mesh = device_mesh(jax.devices()[:devices])
    trained, frozen = split_variables(variables, stage)
    step = prepare(recipe, stage, mesh)
    state = replicate(mesh, init_state(trained, optimizer()))
    frozen = replicate(mesh, frozen)
    for _ in range(steps):
        state, metrics = step(state, frozen, shard_batch(mesh, batch))
    return state, metrics


@pytest.mark.parametrize(
    "branches",
    [
        pytest.param(
            branches, id="+".join(branches), marks=[pytest.mark.slow] * (branches not in QUICK)
        )
        for branches in ALL_STAGES
    ],
)
def test_a_stage_changes_every_parameter_of_its_branches(recipe, variables, batch, branches):
    stage = Stage(1, branches)
    state, metrics = run_step(recipe, variables, batch, stage)
    assert set(state.variables["params"]) == set(branches)
    before = select_branches(variables, branches)["params"]
    for (path, old), new in zip(
        jax.tree.leaves_with_path(before), jax.tree.leaves(state.variables["params"]), strict=True
    ):
        assert not np.array_equal(old, new), jax.tree_util.keystr(path)
    assert metrics["loss"] == pytest.approx(
        sum(float(metrics[f"loss_{branch}"]) for branch in branches), rel=1e-5
    )
    assert int(state.step) == 1


@pytest.mark.parametrize(
    "branches",
    [
        pytest.param(("global",), id="global"),
        pytest.param(("global", "local", "fusion"), id="all", marks=pytest.mark.slow),
    ],
)
def test_eight_devices_do_what_one_does(recipe, variables, batch, branches):
    stage = Stage(1, branches)
    one, metrics_one = run_step(recipe, variables, batch, stage, devices=1)
    eight, metrics_eight = run_step(recipe, variables, batch, stage, devices=8)
    assert float(metrics_eight["loss"]) == pytest.approx(float(metrics_one["loss"]), rel=1e-4)
    for (path, a), b in zip(
        jax.tree.leaves_with_path(one.variables), jax.tree.leaves(eight.variables), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4, err_msg=jax.tree_util.keystr(path))


def test_loss_of_a_stage_is_the_branches_own_losses_not_mixed(recipe, variables, batch):
    """The global branch learns the same whether or not the others train beside it."""
    beside, _ = run_step(recipe, variables, batch, Stage(1, ("global", "local")))
    alone, _ = run_step(recipe, variables, batch, Stage(1, ("global",)))
    a = jax.tree.leaves(beside.variables["params"]["global"])
    b = jax.tree.leaves(alone.variables["params"]["global"])
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


def test_binary_cross_entropy_by_hand():
    logits, labels = jnp.array([[0.0, 2.0]]), jnp.array([[1, 0]], jnp.uint8)
    expected = (np.log(2) + np.log1p(np.exp(2.0))) / 2
    assert float(binary_cross_entropy(logits, labels)) == pytest.approx(expected, rel=1e-6)


def test_binary_cross_entropy_of_extreme_logits_is_finite():
    logits = jnp.array([[1e4, -1e4]])
    assert float(binary_cross_entropy(logits, jnp.array([[0, 1]]))) == pytest.approx(1e4)


def test_sgd_by_hand():
    """Two steps of PyTorch's rule: g += wd * p; v = m * v + g; p -= lr * v."""
    rule, rate = sgd(0.1, drop_step=1, drop_factor=10.0, momentum=0.9, weight_decay=0.01)
    p, v, gradient = 2.0, 0.0, 0.5
    params, state = {"p": jnp.array(p)}, rule.init({"p": jnp.array(p)})
    for lr in (0.1, 0.01):
        v = 0.9 * v + gradient + 0.01 * p
        p -= lr * v
        updates, state = rule.update({"p": jnp.array(gradient)}, state, params)
        params = optax.apply_updates(params, updates)
        assert float(params["p"]) == pytest.approx(p, rel=1e-6)
    assert [float(rate(step)) for step in (0, 1)] == pytest.approx([0.1, 0.01])


def test_control_experiment_feeds_the_whole_image_to_the_local_branch(recipe, variables, batch):
    import dataclasses

    control = dataclasses.replace(recipe, local_input="image")
    swapped = {kind: {**tree, "local": tree["global"]} for kind, tree in variables.items()}
    _, metrics = run_step(control, swapped, batch, Stage(1, ("global", "local")))
    assert float(metrics["loss_global"]) == pytest.approx(float(metrics["loss_local"]), rel=1e-6)


def test_strategies_are_the_papers():
    assert [stage.name for stage in stages("G_L_F")] == ["1_global", "2_local", "3_fusion"]
    assert [stage.name for stage in stages("G_LF")] == ["1_global", "2_local+fusion"]
    assert stages("G_L_F*")[2].selects_by == "fusion"
