"""`config.remat` keeps convolutions' outputs alone, and computes the same."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agcnn_jax.models.agcnn import AGCNN, apply_branch
from agcnn_jax.models.densenet import DenseNet
from agcnn_jax.models.resnet import ResNet
from tests.support.small_steps import random_variables

SIDE, ROWS = 32, 4
BACKBONES = {"resnet": ResNet(blocks=(1, 1), width=4), "densenet": DenseNet(blocks=(2, 1), stem=8)}


def make_gradient(name, remat, dtype):
    """Return a jitted gradient of a function of every output, and arguments for it."""
    model = AGCNN(BACKBONES[name].clone(dtype=dtype), 5, mean=(0.5,), std=(0.25,), remat=remat)
    variables = random_variables(dataclasses.replace(model, remat=False), SIDE)
    variables = jax.tree.map(lambda leaf: leaf.astype(dtype), variables)
    images = np.random.default_rng(1).uniform(0, 255, (ROWS, SIDE, SIDE)).astype(dtype)

    def loss(params, images):
        given = {**variables, "params": params}
        output, statistics = apply_branch(model, given, "global", images, train=True)
        return (jnp.tanh(output.logits) ** 2).sum(), (output.logits, statistics)

    return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True)), (variables["params"], images)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet", "densenet"])
def test_gradients_outputs_and_statistics_are_the_same(name):
    with jax.enable_x64(True):
        results = []
        for remat in (False, True):
            gradient, arguments = make_gradient(name, remat, jnp.float64)
            results.append(jax.device_get(gradient(*arguments)))
    leaves = [jax.tree.leaves_with_path(tree) for tree in results]
    assert max(np.abs(leaf).max() for _, leaf in leaves[0]) > 1e-3
    for (path, plain), (_, again) in zip(*leaves, strict=True):
        np.testing.assert_allclose(
            again, plain, rtol=1e-9, atol=1e-12, err_msg=jax.tree_util.keystr(path)
        )


@pytest.mark.parametrize("name", ["resnet", pytest.param("densenet", marks=pytest.mark.slow)])
def test_convolutions_are_kept_and_the_rest_is_computed_again(name):
    """The backward pass has no convolution more, and rectifies again."""
    counts = []
    for remat in (False, True):
        gradient, arguments = make_gradient(name, remat, jnp.float32)
        text = gradient.trace(*arguments).lower(lowering_platforms=("tpu",)).as_text()
        products = text.count("stablehlo.convolution") + text.count("stablehlo.dot_general")
        counts.append((products, text.count("stablehlo.maximum"), text.count("concatenate")))
    plain, again = counts
    assert again[0] == plain[0]
    assert again[1] > plain[1]
    assert name == "resnet" or again[2] > plain[2]
