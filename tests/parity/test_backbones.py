"""Forward and backward passes of the backbones, compared with PyTorch in float32 and float64."""

import copy
import functools

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
MODEL = AGCNN(None, CLASSES)  # for its normalisation


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
    """Return the package's activations after each of the twin's stages."""
    feature_map, state = backbone.apply(
        variables,
        x,
        train=False,
        capture_intermediates=lambda _, method: method in ("__call__", "normalise"),
        mutable=["intermediates"],
    )
    kept = {
        name: value.get("__call__", value.get("normalise"))[0]
        for name, value in state["intermediates"].items()
        if isinstance(value, dict)
    }
    if not isinstance(backbone, DenseNet):
        stages = {"stem": max_pool(nn.relu(kept["bn1"]))}
        for number, blocks in enumerate(backbone.blocks, start=1):
            stages[f"layer{number}"] = kept[f"layer{number}_{blocks - 1}"]
    else:
        stages = {"stem": max_pool(nn.relu(kept["norm0"]))}
        x = stages["stem"]
        for number, layers in enumerate(backbone.blocks, start=1):
            new = [kept[f"block{number}_layer{layer}"][0] for layer in range(1, layers + 1)]
            x = stages[f"block{number}"] = jnp.concatenate([x, *new], axis=-1)
            if number < len(backbone.blocks):
                x = stages[f"transition{number}"] = average_pool(kept[f"transition{number}_conv"])
        stages["norm5"] = nn.relu(kept["norm5"][0])
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
        assert set(stages) == set(expected)
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
def test_backward_float64(networks, figure, name):
    """Compares every parameter's gradient of the BCE, with BatchNorm in training mode."""
    expected_loss, expected = torch_gradients(networks[name], "float64", 64)
    loss, gradients = our_gradients(networks[name], name, "float64", 64)
    figure(f"backward float64, {name}, loss", bridge.relative(loss, expected_loss), 1e-9)
    for key, gradient in expected.items():
        error = bridge.relative(gradients[key], gradient)
        figure(f"backward float64, {name}, parameters", error, 1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_backward_float32(networks, figure, name):
    """Compares float32 gradients, where rounding decides a ReLU whose input is nearly zero.

    Every parameter is compared on weights that avoid such inputs. On random weights, the distance
    to the float64 gradient is compared with the distance of PyTorch's float32 gradient.
    """
    torch.manual_seed(1)
    clear = bridge.keep_off_kinks(bridge.make_twin(name), 96, 3)
    _, exact = torch_gradients(clear, "float64", 96)
    expected_loss, expected = torch_gradients(clear, "float32", 96)
    loss, gradients = our_gradients(clear, name, "float32", 96)
    figure(f"backward float32, {name}, loss", bridge.relative(loss, expected_loss), 1e-4)
    largest = max(np.abs(gradient).max() for gradient in exact.values())
    for key, gradient in expected.items():
        if np.abs(exact[key]).max() > CANCELLED * largest:
            error = bridge.relative(gradients[key], gradient)
            figure(f"backward float32, {name}, parameters", error, 1e-3)
        else:
            error = np.abs(gradients[key] - gradient).max() / largest
            figure(f"backward float32, {name}, cancelled parameters", error, 1e-5)

    _, exact = torch_gradients(networks[name], "float64", 96)
    _, expected = torch_gradients(networks[name], "float32", 96)
    _, gradients = our_gradients(networks[name], name, "float32", 96)
    ratio = distance(gradients, exact) / distance(expected, exact)
    figure(f"backward float32, {name}, distance to float64 over PyTorch's", ratio, 5)


CANCELLED = 1e-4
"""Gradients below this share of the largest belong to parameters that BatchNorm cancels."""


def distance(gradients, exact):
    return np.sqrt(sum(np.sum((gradients[key] - exact[key]) ** 2) for key in exact))


def batch_of(dtype, size):
    labels = (np.random.default_rng(2).random((2, CLASSES)) < 0.3).astype(np.uint8)
    return gray_images(size, dtype, seed=1), labels


def torch_gradients(network, dtype, size):
    """Return the loss and every gradient as float64, without changing the network."""
    network = copy.deepcopy(network).to(DTYPES[dtype]).train()
    images, labels = batch_of(dtype, size)
    feature_map = list(network.stages(normalised(images, MODEL)).values())[-1]
    logits = network.head(twin.pool(feature_map, "avg"))
    loss = torch.nn.BCEWithLogitsLoss()(logits, torch.from_numpy(labels).to(logits.dtype))
    loss.backward()
    gradients = {
        key: value.grad.numpy().astype(np.float64) for key, value in network.named_parameters()
    }
    return loss.detach(), gradients


def our_gradients(network, name, dtype, size):
    backbone = bridge.make_ours(name)
    params, batch_stats = bridge.branch_variables(network, backbone)
    images, labels = batch_of(dtype, size)
    with jax.enable_x64(dtype == "float64"):
        if dtype == "float64":
            params, batch_stats = bridge.as_float64((params, batch_stats))
        loss, gradients = gradient_of_loss(name)(params, batch_stats, images, labels)
        assert {leaf.dtype for leaf in jax.tree.leaves(gradients)} == {jnp.dtype(dtype)}
    named = torch_state(gradients, batch_stats, backbone, 3)
    return loss, {key: np.asarray(value, np.float64) for key, value in named.items()}


@functools.cache
def gradient_of_loss(name):
    model = AGCNN(bridge.make_ours(name), CLASSES, pooling="avg")

    def loss_of(params, batch_stats, images, labels):
        variables = {"params": {"global": params}, "batch_stats": {"global": batch_stats}}
        output, _ = apply_branch(model, variables, "global", images, train=True)
        return binary_cross_entropy(output.logits, labels)

    return jax.jit(jax.value_and_grad(loss_of))
