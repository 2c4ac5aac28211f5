"""XLA's result of each pattern in the networks at more than 32,768 rows, against NumPy in float64.

jaxlib 0.10.2 (the newest for Python 3.11) computes some float32 products with sums wrongly on CPUs
from row 32,769 on, and crashes on some arrays of rank 7 and 8. These tests show that the installed
version has no such effect here.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agcnn_jax.attention.heatmap import heat_map
from agcnn_jax.attention.regions import region_box_host, region_boxes_device
from agcnn_jax.attention.resample import crop_and_resize
from agcnn_jax.data.augment import Augmentation, _random_box, augment, centre_crop
from agcnn_jax.models.agcnn import _linear
from agcnn_jax.models.densenet import DenseNet
from agcnn_jax.models.layers import BatchNorm, Conv, average_pool, global_pool, max_pool
from agcnn_jax.models.resnet import ResNet
from agcnn_jax.training.steps import binary_cross_entropy

SHAPES = [(3, 331, 33, 3), (5, 87, 77, 7)]
"""Feature maps of 32,769 and of 33,495 pixels."""

IMAGES, SIDE = 1101, 31
"""Together 34,131 rows of pixels."""


def same(actual, expected, tolerance=2e-6):
    """Compare each element, within a fraction of the largest."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


def draw(*shape, seed=0, offset=0.0):
    return (np.random.default_rng(seed).normal(size=shape) + offset).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_product_batch_moments_and_their_gradients(shape):
    """A 1x1 convolution, BatchNorm of its result, and the gradients of both."""
    channels, features = shape[-1], 5
    x, upstream = draw(*shape, offset=0.5), draw(*shape[:3], features, seed=1)
    kernel, scale = draw(1, 1, channels, features, seed=2), draw(features, seed=3, offset=2)
    bias, running = draw(features, seed=4), draw(features, seed=5)

    def forward(x, kernel, scale, bias):
        z = Conv(features).apply({"params": {"kernel": kernel}}, x)
        variables = {
            "params": {"scale": scale, "bias": bias},
            "batch_stats": {"mean": running, "var": jnp.ones(features)},
        }
        y, updated = BatchNorm().apply(variables, z, True, mutable=["batch_stats"])
        return (y * upstream).sum(), (y, updated["batch_stats"])

    gradient = jax.jit(jax.grad(forward, argnums=(0, 1, 2, 3), has_aux=True))
    (dx, dkernel, dscale, dbias), (y, stats) = gradient(x, kernel, scale, bias)

    rows, g = (a.reshape(-1, a.shape[-1]).astype(np.float64) for a in (x, upstream))
    matrix = kernel[0, 0].astype(np.float64)
    z = rows @ matrix
    mean, deviation = z.mean(0), np.sqrt(z.var(0) + 1e-5)
    normal = (z - mean) / deviation
    same(y.reshape(z.shape), scale * normal + bias)
    same(stats["mean"], running + 0.1 * (mean - running))
    same(stats["var"], 0.9 + 0.1 * z.var(0, ddof=1))
    same(dbias, g.sum(0), 1e-5)
    same(dscale, (g * normal).sum(0), 1e-5)
    dz = scale / deviation * (g - g.mean(0) - normal * (g * normal).mean(0))
    same(dx.reshape(rows.shape), dz @ matrix.T, 1e-5)
    same(dkernel[0, 0], rows.T @ dz, 2e-5)


def test_convolution_and_pooling():
    x, kernel = draw(3, 133, 333, 3), draw(3, 3, 3, 5, seed=1)
    ours = jax.jit(lambda x: Conv(5, 3).apply({"params": {"kernel": kernel}}, x))(x)
    padded = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    same(ours, np.einsum("bhwcij,ijcf->bhwf", windows, kernel.astype(np.float64), optimize=True))
    bordered = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(bordered, (3, 3), axis=(1, 2))
    same(jax.jit(max_pool)(x), windows[:, ::2, ::2].max((-2, -1)), 0)
    even = x[:, :132, :332].astype(np.float64).reshape(3, 66, 2, 166, 2, 3)
    same(jax.jit(average_pool)(x), even.mean((2, 4)))


def test_pooled_features_and_the_linear_layer():
    x, weight, bias = draw(32769, 2, 3, 5), draw(5, 3, seed=1), draw(3, seed=2)
    head = {"kernel": weight, "bias": bias}
    for pooling, pooled in (("max", x.max((1, 2))), ("avg", x.mean((1, 2), dtype=np.float64))):
        logits = jax.jit(lambda x, p=pooling: _linear(head, global_pool(x, p)))(x)
        same(logits, pooled.astype(np.float64) @ weight + bias)


@pytest.mark.parametrize("statistic", ["max", "l1", "l2"])
@pytest.mark.parametrize("shape", [(673, 7, 7, 5), (331, 11, 9, 3)])
def test_heat_maps(shape, statistic):
    features = draw(*shape)
    side = shape[1]
    features = features[:, :, :side]
    ours = jax.jit(heat_map, static_argnums=(1, 2))(features, side, statistic)
    size = np.abs(features.astype(np.float64))
    response = {"max": size.max(-1), "l1": size.mean(-1), "l2": np.sqrt((size**2).sum(-1))}
    wide = resample(response[statistic], np.tile([0, 0, *size.shape[2:0:-1]], (len(size), 1)), side)
    low, high = (getattr(wide, end)((1, 2), keepdims=True) for end in ("min", "max"))
    same(ours, (wide - low) / (high - low), 5e-6)


@pytest.mark.parametrize("labels", [1, 3, 15])
def test_loss_and_its_gradient(labels):
    logits = 4 * draw(32769, labels)
    truth = np.random.default_rng(1).integers(0, 2, logits.shape).astype(np.uint8)
    loss, gradient = jax.jit(jax.value_and_grad(binary_cross_entropy))(logits, truth)
    z = logits.astype(np.float64)
    same(loss, (np.logaddexp(0, z) - truth * z).mean())
    same(gradient, (1 / (1 + np.exp(-z)) - truth) / z.size)


def resample(images, boxes, size):
    """Enlarge crops bilinearly to `size` in float64, with half-pixel centres and clamped edges."""
    images = images.astype(np.float64)
    number = np.arange(len(images))[:, None, None]

    def taps(start, stop, extent):
        place = start[:, None] + (np.arange(size) + 0.5) * (stop - start)[:, None] / size - 0.5
        place = np.clip(place, start[:, None], stop[:, None] - 1)
        low = np.floor(place).astype(int)
        return low, np.minimum(low + 1, extent - 1), place - low

    left, right, across = taps(boxes[:, 0], boxes[:, 2], images.shape[2])
    top, bottom, down = taps(boxes[:, 1], boxes[:, 3], images.shape[1])
    across = across[:, None, :]

    def line(rows):
        rows = rows[:, :, None]
        here, there = (images[number, rows, columns[:, None]] for columns in (left, right))
        return here * (1 - across) + there * across

    return line(top) * (1 - down[:, :, None]) + line(bottom) * down[:, :, None]


@pytest.fixture(scope="module")
def films():
    return np.random.default_rng(0).integers(0, 256, (IMAGES, SIDE, SIDE), np.uint8)


def test_crops(films):
    rng = np.random.default_rng(1)
    corner = rng.integers(0, SIDE - 1, (IMAGES, 2))
    boxes = np.concatenate([corner, rng.integers(corner + 1, SIDE + 1)], axis=1)
    ours = jax.jit(crop_and_resize, static_argnums=2)(films, boxes, SIDE)
    same(ours, resample(films, boxes, SIDE), 1e-5)


def test_augmentation(films):
    # All boxes are smaller than the images, so crops are only enlarged.
    settings = Augmentation(scale=(0.1, 0.6))
    records = np.arange(IMAGES, dtype=np.int32)
    ours = jax.jit(lambda x: augment(x, records, 3, 5, SIDE, settings))(films)
    key = jax.random.fold_in(jax.random.key(5), 3)

    def drawn(record):
        crop_key, flip_key = jax.random.split(jax.random.fold_in(key, record))
        return _random_box(crop_key, SIDE, settings), jax.random.bernoulli(flip_key)

    # A few at a time: other tests check small batches.
    draw_part = jax.jit(jax.vmap(drawn))
    parts = [draw_part(records[start : start + 367]) for start in range(0, IMAGES, 367)]
    boxes, flipped = (np.concatenate(part) for part in zip(*parts, strict=True))
    expected = resample(films, boxes, SIDE)
    expected[flipped] = expected[flipped, :, ::-1]
    same(ours, expected, 1e-5)
    centre = jax.jit(centre_crop, static_argnums=1)(films, 27)
    np.testing.assert_array_equal(centre, films[:, 2:29, 2:29])


def test_regions(films):
    masks = films > 220
    boxes = jax.jit(region_boxes_device)(masks)
    np.testing.assert_array_equal(boxes, [region_box_host(mask) for mask in masks])


@pytest.mark.parametrize(
    "backbone",
    [
        ResNet(blocks=(1,), width=4),
        DenseNet(blocks=(1, 1), growth=4, stem=8),
    ],
    ids=["resnet", "densenet"],
)
def test_no_array_has_more_than_six_axes(backbone):
    image = jax.ShapeDtypeStruct((2, 32, 32, 1), jnp.float32)
    variables = jax.eval_shape(lambda x: backbone.init(jax.random.key(0), x, train=False), image)

    def loss(params, statistics, x):
        everything = {"params": params, "batch_stats": statistics}
        y, _ = backbone.apply(everything, x, train=True, mutable=["batch_stats"])
        return y.sum()

    step = jax.jit(jax.grad(loss))
    text = step.lower(variables["params"], variables["batch_stats"], image).compile().as_text()
    ranks = [dims.count(",") + 1 for dims in re.findall(r"\bf32\[([\d,]+)\]", text)]
    assert len(ranks) > 100
    assert max(ranks) <= 6
