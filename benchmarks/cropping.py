"""Speed of variants of the host cropper: what it transfers, and where it resamples.

    python benchmarks/cropping.py [--batch_size 64] [--input_size 224] [--stored_size 512 1024]
        [--seconds 3] [--out FILE]

Each variant turns random feature maps and images on the devices into local images on the devices.
It transfers masks as bits or booleans, or heat maps before they are resized (7x7 numbers at 224).
It crops with OpenCV on the host, or sends the boxes back and crops on the devices with products of
interpolation matrices. The variant that transfers nothing is the cropper of evaluation on other
devices than CPUs, which also finds the regions there. Variants named after a size in pixels cut the
same boxes out of stored images of that size (`attention.crop_from=stored`), in windows that
training draws.

Prints milliseconds and bytes per image, the ratio of the time to the first variant's (booleans and
images to the host, crops back), and the number of boxes that differ from the first variant's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from reporting import write_rows

from agcnn_jax.attention.attend import attend
from agcnn_jax.attention.crop import boxes_host, crop_stored_host, resample_host
from agcnn_jax.attention.heatmap import heat_map, heat_map_mask
from agcnn_jax.attention.resample import crop_and_resize
from agcnn_jax.attention.stored import Stored, crop_stored
from agcnn_jax.data.augment import Augmentation, augmented_views
from agcnn_jax.runtime.machine import available_cores

TAU = 0.7
CHANNELS = 64


def variants(
    images: jax.Array, features: jax.Array, executor: ThreadPoolExecutor
) -> dict[str, tuple[Callable[[], jax.Array], int, int]]:
    """Make the variants.

    Returns:
        By name: a function that makes local images on the devices, the bytes transferred per
        image, and the number of boxes that differ from the first variant's.
    """
    size, cells = images.shape[-1], features.shape[1]
    booleans = jax.jit(lambda maps: heat_map_mask(heat_map(maps, size), TAU))
    bits = jax.jit(lambda maps: jnp.packbits(heat_map_mask(heat_map(maps, size), TAU), axis=-1))
    small = jax.jit(lambda maps: jnp.abs(maps).max(axis=-1))
    resample = jax.jit(lambda boxes: crop_and_resize(images, boxes, size))

    def as_booleans() -> np.ndarray:
        return np.asarray(jax.device_get(booleans(features)))

    def as_bits() -> np.ndarray:
        return np.unpackbits(jax.device_get(bits(features)), axis=-1, count=size)

    def from_heat_map(heat: np.ndarray) -> np.ndarray:
        heat = cv2.resize(heat, (size, size), interpolation=cv2.INTER_LINEAR)
        return (heat - heat.min()) / np.ptp(heat) > TAU

    def as_heat_maps() -> np.ndarray:
        return np.stack(list(executor.map(from_heat_map, jax.device_get(small(features)))))

    def on_host(masks: Callable[[], np.ndarray]) -> Callable[[], jax.Array]:
        def crop() -> jax.Array:
            pixels = jax.device_get(jnp.copy(images))  # an array keeps what it was once copied to
            return jax.device_put(resample_host(pixels, boxes_host(masks())))

        return crop

    def on_devices(masks: Callable[[], np.ndarray]) -> Callable[[], jax.Array]:
        return lambda: resample(jax.device_put(boxes_host(masks())))

    image = 4 * size * size
    sent = {
        "booleans": (as_booleans, size * size),
        "bits": (as_bits, size * -(-size // 8)),
        "heat maps": (as_heat_maps, 4 * cells * cells),
    }
    ways, expected = {}, boxes_host(as_booleans())
    for name, (masks, count) in sent.items():
        different = int((boxes_host(masks()) != expected).any(axis=1).sum())
        ways[f"{name}, OpenCV"] = on_host(masks), count + 2 * image, different
        ways[f"{name}, devices"] = on_devices(masks), count + 4 * 4, different
    attended = jax.jit(lambda maps: attend(images, maps, "max", TAU)[2:])
    different = int((np.asarray(attended(features)[0]) != expected).any(axis=1).sum())
    ways["nothing, devices"] = lambda: attended(features)[1], 0, different
    return ways


def stored_variants(
    images: jax.Array, features: jax.Array, stored_size: int
) -> dict[str, tuple[Callable[[], jax.Array], int, int]]:
    """Make the variants that crop from stored images, which both sides hold; as `variants`."""
    count, size = len(images), images.shape[-1]
    films = np.random.default_rng(0).integers(0, 256, (count, stored_size, stored_size), np.uint8)
    views = augmented_views(jnp.arange(count), jnp.int32(0), 0, stored_size, Augmentation())
    on_devices = Stored(jax.device_put(films), *views)
    on_host = Stored(*jax.device_get(on_devices))
    bits = jax.jit(lambda maps: jnp.packbits(heat_map_mask(heat_map(maps, size), TAU), axis=-1))
    resample = jax.jit(lambda stored, boxes: crop_stored(stored, boxes, size, jnp.float32))
    attended = jax.jit(lambda maps, stored: attend(images, maps, "max", TAU, stored=stored)[2:])

    def boxes() -> np.ndarray:
        masks = np.unpackbits(jax.device_get(bits(features)), axis=-1, count=size)
        return boxes_host(masks)

    def crop_on_host() -> jax.Array:
        return jax.device_put(crop_stored_host(on_host, boxes(), size, np.float32))

    sent, name = size * -(-size // 8), f"{stored_size} stored"
    different = int((np.asarray(attended(features, on_devices)[0]) != boxes()).any(axis=1).sum())
    return {
        f"bits, {name}, host": (crop_on_host, sent + 4 * size * size, 0),
        f"bits, {name}, devices": (lambda: resample(on_devices, boxes()), sent + 4 * 4, 0),
        f"nothing, {name}, devices": (lambda: attended(features, on_devices)[1], 0, different),
    }


def milliseconds(
    works: dict[str, Callable[[], jax.Array]], images: int, seconds: float
) -> dict[str, float]:
    """Time all variants in turn, repeatedly; return the medians in milliseconds per image."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        jax.block_until_ready(work())
    end = time.perf_counter() + seconds * len(works)
    while time.perf_counter() < end:
        for name, work in works.items():
            start = time.perf_counter()
            jax.block_until_ready(work())
            times[name].append(time.perf_counter() - start)
    return {name: 1e3 * statistics.median(each) / images for name, each in times.items()}


def main() -> None:
    """Measure all variants and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--input_size", type=int, default=224)
    parser.add_argument("--stored_size", type=int, nargs="*", default=[512, 1024])
    parser.add_argument("--seconds", type=float, default=3.0, help="time per variant")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    count, size = options.batch_size, options.input_size
    rng = np.random.default_rng(0)
    images = jax.device_put((rng.random((count, size, size)) * 255).astype(np.float32))
    cells = -(-size // 32)
    features = jax.device_put(rng.random((count, cells, cells, CHANNELS)).astype(np.float32) ** 20)
    with ThreadPoolExecutor(min(16, available_cores())) as executor:
        ways = variants(images, features, executor)
        for stored_size in options.stored_size:
            ways |= stored_variants(images, features, stored_size)
        times = milliseconds({name: one[0] for name, one in ways.items()}, count, options.seconds)
    first = next(iter(times.values()))
    rows = [
        {
            "variant": name,
            "ms": round(ms, 3),
            "ratio": round(ms / first, 2),
            "bytes": ways[name][1],
            "boxes_that_differ": ways[name][2],
        }
        for name, ms in times.items()
    ]
    devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    print(f"{devices}, {os.cpu_count()} cores, {count} images of {size}x{size}, ms per image")
    for row in rows:
        print(
            f"{row['variant']:29} {row['ms']:8.3f} {row['ratio']:6.2f} {row['bytes']:9,} bytes, "
            f"{row['boxes_that_differ']} boxes differ"
        )
    if options.out:
        facts = {"devices": devices, "cores": os.cpu_count(), "jax": jax.__version__}
        write_rows(options.out, facts | {"images": count, "size": size}, rows)


if __name__ == "__main__":
    main()
