"""Boxes and crops of 10,000 heat maps, compared with scipy.ndimage and the formula."""

import functools

import jax
import numpy as np
import pytest

from agcnn_jax.attention.crop import resize_region_host
from agcnn_jax.attention.heatmap import heat_map, heat_map_mask
from agcnn_jax.attention.regions import region_box_host, region_boxes_device
from agcnn_jax.attention.resample import crop_and_resize
from tests.parity.twin import region_box

ROUNDING = 1e-6
"""Float32 rounding of a heat map; pixels this close to tau may be in the mask or not."""

TAUS = (0.0, 0.3, 0.5, 0.7, 0.9, 0.99)
CHUNK = 250


def smooth(rng, count, side):
    return rng.gamma(1.0, size=(count, side, side))


def plateaus(rng, count, side):
    """Draw few distinct values: many equal areas, diagonal contacts and values equal to tau."""
    return np.round(rng.random((count, side, side)) * 10) / 10


def sparse(rng, count, side):
    return (rng.random((count, side, side)) < rng.uniform(0.02, 0.7, (count, 1, 1))) * 1.0


def shapes(rng, count, side):
    """Draw combs, spirals, checkerboards, single pixels, frames, diagonals, and flat maps."""
    rows, columns = np.mgrid[:side, :side]
    middle = (side - 1) / 2
    ring = np.maximum(abs(rows - middle), abs(columns - middle)).astype(int)
    spiral = (ring % 2 == 0) & ~((rows == columns + 1) & (ring > 0))
    drawn = [
        rows % 2 == 0,
        (rows % 2 == 0) | (columns == 0),
        (rows + columns) % 2 == 0,
        (rows == side // 2) & (columns == 0),
        (rows == 0) | (columns == 0) | (rows == side - 1) | (columns == side - 1),
        rows == columns,
        (rows == columns) | (rows + columns == side - 1),
        spiral,
        ring % 2 == 0,
        np.ones((side, side), bool),
        np.zeros((side, side), bool),
        (rows < 2) & ((columns < 2) | (columns > side - 3)),
    ]
    picked = np.stack(drawn).astype(float)[rng.integers(len(drawn), size=count)]
    turned = np.where(rng.random((count, 1, 1)) < 0.5, picked.transpose(0, 2, 1), picked)
    return np.where(rng.random((count, 1, 1)) < 0.5, turned[:, ::-1], turned) * 3.0


# Maps of the backbone's 7x7 for a 224 input, smaller ones, and masks of full resolution.
CASES = [
    (smooth, 7, 224, 1500),
    (plateaus, 7, 224, 750),
    (shapes, 7, 224, 250),
    (smooth, 4, 56, 2000),
    (plateaus, 4, 56, 1500),
    (sparse, 7, 56, 1500),
    (shapes, 56, 56, 500),
    (sparse, 56, 56, 1500),
    (plateaus, 40, 40, 500),
]


def test_there_are_ten_thousand():
    assert sum(count for *_, count in CASES) == 10_000


@functools.partial(jax.jit, static_argnums=2)
def on_device(maps, tau, size):
    heat = heat_map(maps[..., None], size)
    masks = heat_map_mask(heat, tau)
    return heat, masks, region_boxes_device(masks)


crop_on_device = jax.jit(crop_and_resize, static_argnums=2)


def bilinear(image, size):
    """Resize in float64 by the formula: half-pixel centres, clamped edges."""

    def taps(length):
        position = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
        low = np.floor(position).astype(int)
        return low, np.minimum(low + 1, length - 1), position - low

    top, bottom, down = taps(image.shape[-2])
    left, right, across = taps(image.shape[-1])
    rows = image[..., top, :] * (1 - down)[:, None] + image[..., bottom, :] * down[:, None]
    return rows[..., left] * (1 - across) + rows[..., right] * across


def expected_heat(maps, size):
    maps = maps.astype(np.float32).astype(np.float64)
    heat = bilinear(maps, size)
    low = heat.min(axis=(1, 2), keepdims=True)
    span = heat.max(axis=(1, 2), keepdims=True) - low
    flat = np.ptp(maps, axis=(1, 2))[:, None, None] == 0
    return np.where(flat, 0, (heat - low) / np.where(flat, 1, span))


@pytest.mark.parametrize(("kind", "side", "size", "count"), CASES)
def test_boxes_and_crops(figure, kind, side, size, count):
    rng = np.random.default_rng([side, size, count])
    wrong = undetermined = 0
    for start in range(0, count, CHUNK):
        maps = kind(rng, CHUNK, side).astype(np.float32)
        tau = np.float32(TAUS[start // CHUNK % len(TAUS)])
        heat, masks, boxes = jax.device_get(on_device(maps, tau, size))
        exact = expected_heat(maps, size)
        figure("attention, heat map", np.abs(heat - exact).max(), ROUNDING)
        unclear = np.abs(exact - tau) < ROUNDING
        assert (masks == (exact > tau))[~unclear].all()
        images = (rng.random((CHUNK, size, size)) * 255).astype(np.float32)
        crops = np.asarray(crop_on_device(images, boxes, size))
        for index in range(CHUNK):
            # If rounding decides, use the components of our mask.
            undetermined += unclear[index].any() and tau > 0
            mask = masks[index] if unclear[index].any() else exact[index] > tau
            box = region_box(mask)
            wrong += not np.array_equal(boxes[index], box)
            wrong += not np.array_equal(region_box_host(masks[index]), box)
            if index % 5 == 0:
                xmin, ymin, xmax, ymax = box
                crop = bilinear(images[index, ymin:ymax, xmin:xmax].astype(np.float64), size)
                on_host = np.empty_like(images[index])
                resize_region_host(images[index], boxes[index], on_host)
                error = max(np.abs(crops[index] - crop).max(), np.abs(on_host - crop).max())
                figure("attention, crops (of the gray range)", error / 255, 1 / 255)
    figure("attention, boxes that differ of 10,000", wrong, 0)
    # Rounding may decide many maps only if they have few distinct values, equal to tau, or if
    # tau = 0, which equals the smallest value of every map.
    if kind is smooth:
        assert undetermined < 0.05 * count
