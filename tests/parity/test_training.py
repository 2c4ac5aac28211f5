"""The same weights and batches through the stages of training, in both frameworks."""

import functools

import jax
import numpy as np
import pytest
import torch

from agcnn_jax.data.augment import Augmentation
from agcnn_jax.models.agcnn import AGCNN, BRANCHES
from agcnn_jax.models.layers import BATCH_AXIS
from agcnn_jax.training.parallel import (
    REPLICATED,
    SHARDED,
    data_parallel,
    device_mesh,
    replicate,
    shard_batch,
)
from agcnn_jax.training.steps import (
    Recipe,
    init_state,
    merge_branches,
    select_branches,
    sgd,
    train_step,
)
from agcnn_jax.training.strategies import Stage, stages
from tests.parity import bridge, twin

STEPS, DROP, BATCH, CLASSES = 20, 12, 8, 5
STORED, SIZE = 64, 56  # the centre crop of a stored image is then its middle, pixel for pixel
MARGIN = (STORED - SIZE) // 2
RATE, FACTOR, MOMENTUM, DECAY, TAU = 0.01, 10.0, 0.9, 1e-2, 0.7
MEAN, STD = (0.5,), (0.25,)


def batches():
    """Blurred noise with a bright patch, and labels that depend on where it lies."""
    rng = np.random.default_rng(0)
    result = []
    for _ in range(STEPS):
        images = rng.integers(0, 120, (BATCH, STORED, STORED))
        labels = np.zeros((BATCH, CLASSES), np.uint8)
        for image, label in zip(images, labels, strict=True):
            for finding in np.flatnonzero(rng.random(CLASSES) < 0.4):
                row, column = 8 + 9 * finding, rng.integers(8, 40)
                image[row : row + 9, column : column + 12] += 130
                label[finding] = 1
        result.append({"image": images.astype(np.uint8), "labels": labels})
    return result


def train_ours(variables, stage, model):
    """The package's own step of a stage, as training runs it on one device."""
    optimizer, _ = sgd(RATE, DROP, FACTOR, MOMENTUM, DECAY)
    recipe = Recipe(model, 0, SIZE, Augmentation("centre", flip=False), "max", TAU)
    mesh = device_mesh(jax.devices()[:1])
    step = data_parallel(
        functools.partial(train_step, recipe=recipe, stage=stage, optimizer=optimizer),
        mesh,
        in_specs=(REPLICATED, REPLICATED, SHARDED),
        out_specs=REPLICATED,
        donate=(0,),
    )
    frozen_branches = tuple(branch for branch in BRANCHES if branch not in stage.branches)
    trained = select_branches(variables, stage.branches)
    state = replicate(mesh, init_state(trained, optimizer))
    frozen = replicate(mesh, select_branches(variables, frozen_branches))
    losses = []
    for batch in batches():
        batch = shard_batch(mesh, {**batch, "record": np.arange(BATCH, dtype=np.int32)})
        state, metrics = step(state, frozen, batch)
        losses.append(metrics)
    result = jax.device_get(merge_branches(frozen, state.variables))
    return result, jax.device_get(losses)


def train_twin(network, stage):
    """The same with torch.optim.SGD; frozen branches in inference mode."""
    trained = [network[branch] for branch in stage.branches]
    for branch in BRANCHES:
        network[branch].train(branch in stage.branches)
        network[branch].requires_grad_(branch in stage.branches)
    parameters = [p for module in trained for p in module.parameters()]
    optimizer = torch.optim.SGD(parameters, RATE, momentum=MOMENTUM, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [DROP], 1 / FACTOR)
    criterion = torch.nn.BCEWithLogitsLoss()
    losses = []
    for batch in batches():
        images = batch["image"][:, MARGIN:-MARGIN, MARGIN:-MARGIN].astype(np.float32)
        images, labels = torch.from_numpy(images), torch.from_numpy(batch["labels"]).float()
        logits = {}
        feature_map, pooled_global, logits["global"] = network.branch("global", images)
        if stage.branches != ("global",):
            local_images, _ = twin.attend(images, feature_map, TAU)
            _, pooled_local, logits["local"] = network.branch("local", local_images)
            logits["fusion"] = network.fuse(pooled_global, pooled_local)
        each = {branch: criterion(logits[branch], labels) for branch in stage.branches}
        optimizer.zero_grad()
        sum(each.values()).backward()
        optimizer.step()
        schedule.step()
        losses.append({f"loss_{branch}": loss.item() for branch, loss in each.items()})
    network.eval().requires_grad_(True)
    return losses


@pytest.mark.parametrize(
    ("strategy", "name"),
    [("G_L_F", "small resnet"), ("G_L_F", "small densenet"), ("GLF", "small resnet")],
)
def test_training(figure, name, strategy):
    torch.manual_seed(0)
    network = twin.AGCNN(
        lambda: bridge.keep_off_kinks(bridge.make_twin(name, 1, CLASSES), SIZE, 1),
        mean=MEAN,
        std=STD,
    ).eval()
    backbone = bridge.make_ours(name, BATCH_AXIS)
    model = AGCNN(backbone, CLASSES, mean=MEAN, std=STD)
    variables = bridge.agcnn_variables(network, backbone)
    for stage in stages(strategy):
        before = variables
        frozen = {key: value.clone() for key, value in network.state_dict().items()}
        variables, ours = train_ours(variables, stage, model)
        reference = train_twin(network, stage)
        title = f"training, {name}, {describe(stage)}"
        for step, (mine, theirs) in enumerate(zip(ours, reference, strict=True)):
            for key, loss in theirs.items():
                assert np.isfinite(mine[key]), step
                figure(f"{title}: losses", bridge.relative(mine[key], loss), 1e-3)
        assert reference[-1] != reference[0]
        check_parameters(figure, title, variables, network, backbone, stage)
        check_frozen(before, variables, frozen, network, stage)


def describe(stage: Stage):
    return f"stage {stage.number} ({'+'.join(stage.branches)})"


def check_parameters(figure, title, variables, network, backbone, stage):
    expected = bridge.agcnn_variables(network, backbone)
    for branch in stage.branches:
        for kind, text in (("params", "parameters"), ("batch_stats", "statistics")):
            errors = jax.tree.map(bridge.relative, variables[kind][branch], expected[kind][branch])
            for error in jax.tree.leaves(errors):
                figure(f"{title}: {text} at the end", error, 1e-3)


def check_frozen(before, after, twin_before, network, stage):
    """Frozen branches are bit-identical, in both; trained ones are not."""
    for branch in BRANCHES:
        same = jax.tree.map(np.array_equal, before["params"][branch], after["params"][branch])
        stats = jax.tree.map(
            np.array_equal, before["batch_stats"][branch], after["batch_stats"][branch]
        )
        if branch in stage.branches:
            assert not any(jax.tree.leaves(same))
            assert not any(jax.tree.leaves(stats))
        else:
            assert all(jax.tree.leaves(same))
            assert all(jax.tree.leaves(stats))
            for key, value in network[branch].state_dict().items():
                assert torch.equal(value, twin_before[f"{branch}.{key}"])
