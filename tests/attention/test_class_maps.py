"""Closed forms of Grad-CAM and Grad-CAM++ against their definitions, differentiated by PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agcnn_jax.attention.class_maps import grad_cam, grad_cam_plus_plus
from agcnn_jax.models.layers import global_pool

FINDINGS = 3


def by_definition(feature_map, kernel, pooling):
    """Both maps of each finding of one image, from the derivatives of exp(logit) in float64."""
    torch = pytest.importorskip("torch")
    features = torch.tensor(feature_map, dtype=torch.float64, requires_grad=True)  # [h, w, K]
    pooled = features.amax(dim=(0, 1)) if pooling == "max" else features.mean(dim=(0, 1))
    maps = []
    for weights in torch.tensor(kernel, dtype=torch.float64).T:
        logit = pooled @ weights
        (first,) = torch.autograd.grad(logit, features, retain_graph=True)
        cam = torch.relu((features * first.mean(dim=(0, 1))).sum(dim=-1))
        # First, second and third derivative of exp(logit) by each activation alone.
        orders = torch.zeros(3, *features.shape, dtype=torch.float64)
        (y1,) = torch.autograd.grad(torch.exp(logit), features, create_graph=True)
        for index in np.ndindex(*features.shape):
            orders[0][index] = y1[index].detach()
            (y2,) = torch.autograd.grad(y1[index], features, create_graph=True)
            orders[1][index] = y2[index].detach()
            (y3,) = torch.autograd.grad(y2[index], features, retain_graph=True)
            orders[2][index] = y3[index]
        denominator = 2 * orders[1] + features.detach().sum(dim=(0, 1)) * orders[2]
        alpha = torch.where(orders[1] > 0, orders[1] / denominator, 0)
        channel = (alpha * torch.relu(orders[0])).sum(dim=(0, 1)) / torch.exp(logit)
        plus = torch.relu((features * channel).sum(dim=-1))
        maps.append((cam.detach().numpy(), plus.detach().numpy()))
    return np.array(maps)  # [findings, 2, h, w]


@pytest.mark.parametrize("pooling", ["max", "avg"])
def test_against_pytorch(pooling):
    generator = np.random.default_rng(0)
    features = np.maximum(generator.standard_normal((2, 3, 2, 4)), 0).astype(np.float32)
    kernel = generator.standard_normal((4, FINDINGS)).astype(np.float32)
    for image in range(2):
        expected = by_definition(features[image], kernel, pooling)
        assert expected.any(axis=(2, 3)).all()
        for finding in range(FINDINGS):
            one, weights = features[image][None], kernel[None, :, finding]
            np.testing.assert_allclose(grad_cam(one, weights)[0], expected[finding, 0], atol=1e-6)
            found = grad_cam_plus_plus(one, weights, pooling)[0]
            np.testing.assert_allclose(found, expected[finding, 1], rtol=1e-5, atol=1e-7)


def test_by_hand():
    features = jnp.array([[[[4.0, 1.0]], [[0.0, 3.0]]]])  # [1, 2, 1, 2]
    weights = jnp.array([[1.0, -2.0]])
    np.testing.assert_allclose(grad_cam(features, weights)[0, :, 0], [1.0, 0.0])
    # The first channel's weight is 1 / (2 + 4) under maximum, 1 / (2 + 2) under average pooling.
    np.testing.assert_allclose(
        grad_cam_plus_plus(features, weights, "max")[0, :, 0], [4 / 6, 0.0], rtol=1e-6
    )
    np.testing.assert_allclose(grad_cam_plus_plus(features, weights, "avg")[0, :, 0], [1.0, 0.0])


def test_the_sum_of_the_map_is_the_logit_under_average_pooling():
    """Where all evidence is in favour, Grad-CAM divides the logit among the positions."""
    generator = np.random.default_rng(1)
    features = jnp.asarray(generator.random((2, 3, 3, 5)), jnp.bfloat16)
    weights = jnp.asarray(generator.random((2, 5)), jnp.float32)
    logits = (global_pool(features, "avg") * weights).sum(axis=-1)
    cam = jax.jit(grad_cam)(features, weights)
    assert cam.dtype == jnp.float32
    np.testing.assert_allclose(cam.sum(axis=(1, 2)), logits, rtol=1e-6)


def test_nothing_in_favour_gives_an_empty_map():
    features = jnp.ones((1, 2, 2, 3))
    against = -jnp.ones((1, 3))
    assert not grad_cam(features, against).any()
    assert not grad_cam_plus_plus(features, against, "max").any()
