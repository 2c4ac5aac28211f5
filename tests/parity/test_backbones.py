"""Forward and backward passes of the full backbones against PyTorch, in float32 and float64."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from agcnn_jax.interop.convert import torch_state
from agcnn_jax.models.agcnn import AGCNN, apply_branch, normalise
from agcnn_jax.models.densenet import DenseNet
from agcnn_jax.models.layers import average_pool, global_pool, max_pool
from agcnn_jax.training.steps import binary_cross_entropy
from tests.parity import bridge, twin

NAMES = ("resnet50", "densenet121")
CLASSES = 15
DTYPES = {"float32": torch.float32, "float64": torch.float64}
FORWARD_BOUND = {"float32": 1e-4, "float64": 1e-9}
BACKWARD_BOUND = {"float32": 1e-3, "float64": 1e-7}


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    return {name: bridge.give_statistics(bridge.make_twin(name), 128, 3) for name in NAMES}


def gray_images(size, dtype, seed=0):
    images = np.random.default_rng(seed).random((2, size, size)) * 255
    return images.astype(dtype)


def normalised(images, model):
    mean, std = (
        torch.tensor(x, dtype=torch.float64)[:, None, None] for x in (model.mean, model.std)
    )
    return ((torch.from_numpy(images)[:, None] / 255 - mean) / std).to(
        torch.from_numpy(images).dtype
    )


def our_stages(backbone, variables, x):
    """What the package computes after each of the twin's stages."""
    feature_map, state = backbone.apply(
        variables, x, train=False, capture_intermediates=True, mutable=["intermediates"]
    )
    kept = {
        name: value["__call__"][0]
        for name, value in state["intermediates"].items()
        if isinstance(value, dict) and "__call__" in value
    }
    if not isinstance(backbone, DenseNet):
        stages = {"stem": max_pool(nn.relu(kept["bn1"]))}
        for number, blocks in enumerate(backbone.blocks, start=1):
            stages[f"layer{number}"] = kept[f"layer{number}_{blocks - 1}"]
    else:
        stages = {"stem": max_pool(nn.relu(kept["norm0"]))}
        x = stages["stem"]
        for number, layers in enumerate(backbone.blocks, start=1):
            new = [kept[f"block{number}_layer{layer}"] for layer in range(1, layers + 1)]
            x = stages[f"block{number}"] = jnp.concatenate([x, *new], axis=-1)
            if number < len(backbone.blocks):
                x = stages[f"transition{number}"] = average_pool(kept[f"transition{number}_conv"])
        stages["norm5"] = nn.relu(kept["norm5"])
    return stages, feature_map


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("dtype", "size"), [("float32", 224), ("float32", 97), ("float64", 64), ("float64", 65)]
)
def test_forward(networks, figure, name, dtype, size):
    network = networks[name]
    backbone = bridge.make_ours(name)
    model = AGCNN(backbone, CLASSES)
    images = gray_images(size, dtype)
    with torch.no_grad():
        network = network.to(DTYPES[dtype])
        expected = network.stages(normalised(images, model))
        expected_map = list(expected.values())[-1]
        pooled = {kind: twin.pool(expected_map, kind) for kind in ("max", "avg")}
        logits = {kind: network.head(features) for kind, features in pooled.items()}
    params, batch_stats = bridge.branch_variables(network, backbone)
    with jax.enable_x64(dtype == "float64"):
        if dtype == "float64":
            params, batch_stats = bridge.as_float64((params, batch_stats))
        variables = {"params": params["backbone"], "batch_stats": batch_stats["backbone"]}

        @jax.jit
        def run(variables, images):
            stages, feature_map = our_stages(backbone, variables, normalise(model, images))
            return stages, {kind: global_pool(feature_map, kind) for kind in ("max", "avg")}

        stages, ours_pooled = run(variables, images)
        assert {stage.dtype for stage in stages.values()} == {jnp.dtype(dtype)}
        assert list(stages) == sorted(expected) or set(stages) == set(expected)
        bound = FORWARD_BOUND[dtype]
        for stage, value in expected.items():
            error = bridge.relative(bridge.nchw(stages[stage]), value)
            figure(f"forward {dtype}, {name}, stages", error, bound)
        head = params["head"]
        for kind, value in pooled.items():
            ours = ours_pooled[kind]
            figure(f"forward {dtype}, {name}, pooled", bridge.relative(ours, value), bound)
            ours_logits = np.asarray(ours) @ head["kernel"] + head["bias"]
            figure(
                f"forward {dtype}, {name}, logits",
                bridge.relative(ours_logits, logits[kind]),
                bound,
            )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("dtype", "size"), [("float32", 96), ("float64", 64)])
def test_backward(networks, figure, name, dtype, size):
    """Gradient of the BCE for every parameter, with BatchNorm in training mode."""
    network = networks[name]
    backbone = bridge.make_ours(name)
    model = AGCNN(backbone, CLASSES, pooling="avg")
    params, batch_stats = bridge.branch_variables(network, backbone)
    network = network.to(DTYPES[dtype]).train()
    images = gray_images(size, dtype, seed=1)
    labels = (np.random.default_rng(2).random((2, CLASSES)) < 0.3).astype(np.uint8)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    feature_map = list(network.stages(normalised(images, model)).values())[-1]
    logits = network.head(twin.pool(feature_map, "avg"))
    network.zero_grad()
    loss = torch.nn.BCEWithLogitsLoss()(logits, torch.from_numpy(labels).to(logits.dtype))
    loss.backward()
    gradients = {key: value.grad.numpy() for key, value in network.named_parameters()}
    network.load_state_dict(before)
    network.eval()
    with jax.enable_x64(dtype == "float64"):
        if dtype == "float64":
            params, batch_stats = bridge.as_float64((params, batch_stats))
        ours_loss, ours = jax.jit(jax.value_and_grad(loss_of), static_argnums=4)(
            params, batch_stats, images, labels, model
        )
        assert {leaf.dtype for leaf in jax.tree.leaves(ours)} == {jnp.dtype(dtype)}
        figure(
            f"backward {dtype}, {name}, loss",
            bridge.relative(ours_loss, loss.detach()),
            FORWARD_BOUND[dtype],
        )
        named = torch_state(ours, batch_stats, backbone, 3)
        for key, gradient in gradients.items():
            error = bridge.relative(named[key], gradient)
            figure(f"backward {dtype}, {name}, worst parameter", error, BACKWARD_BOUND[dtype])


def loss_of(params, batch_stats, images, labels, model):
    variables = {"params": {"global": params}, "batch_stats": {"global": batch_stats}}
    output, _ = apply_branch(model, variables, "global", images, train=True)
    return binary_cross_entropy(output.logits, labels)
