"""Shares of films that are flagged as unlike the training films.

    python benchmarks/unlike_films.py --workdir W --data_dir DATA [--films FOLDER ...] [--out FILE]

Takes test images of a run that eval.py has evaluated, changes them in several ways, adds
photographs (scikit-learn's), pictures of other parts of the body (pydicom-data's) and the folders
of --films, and prints the share that the run's distance flags. The first row is the false alarms.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from reporting import write_rows
from sklearn.datasets import load_sample_images

from agcnn_jax.data import dicom
from agcnn_jax.data.films import load_film, resize_film
from agcnn_jax.data.pipeline import read_batch
from agcnn_jax.data.records import open_records
from agcnn_jax.data.splits import make_split
from agcnn_jax.inference.load_jax import load_run
from agcnn_jax.inference.model import Model

BATCH = 64
CHANGED = 200
"""Test images that are changed."""

LEG = "RG3_UNCR.dcm"
OTHERS = ("JPEG-LL.dcm", "MR2_UNCR.dcm", "vlut_04.dcm")
"""A scintigram of the whole body, an MR image of a shoulder, a test pattern."""


def changed(films: np.ndarray) -> dict[str, np.ndarray]:
    """Change films uint8 `[N, S, S]` in several ways."""
    random, side = np.random.default_rng(0), films.shape[1]

    def gray_levels(function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        return np.rint(255 * function(np.arange(256) / 255)).astype(np.uint8)[films]

    def on_black(width: int, height: int) -> np.ndarray:
        canvas = np.zeros_like(films)
        top, left = (side - height) // 2, (side - width) // 2
        for film, place in zip(films, canvas, strict=True):
            small = cv2.resize(film, (width, height), interpolation=cv2.INTER_AREA)
            place[top : top + height, left : left + width] = small
        return canvas

    noise = random.normal(size=films.shape).astype(np.float32)
    clouds = [cv2.GaussianBlur(one, (0, 0), side / 16) for one in noise]
    scaled = [np.rint(255 * (one - one.min()) / np.ptp(one)).astype(np.uint8) for one in clouds]
    quarters = [resize_film(np.ascontiguousarray(f[: side // 2, : side // 2]), side) for f in films]
    return {
        "inverted": 255 - films,
        "rotated by 90 degrees": np.rot90(films, 1, (1, 2)),
        "rotated by 180 degrees": np.rot90(films, 2, (1, 2)),
        "mirrored left to right": films[:, :, ::-1],
        "upper left quarter alone": np.stack(quarters),
        "half size on black": on_black(side // 2, side // 2),
        "half as wide on black": on_black(side // 2, side),
        "nearly black (fourth power)": gray_levels(lambda x: x**4),
        "nearly white (fourth root)": gray_levels(lambda x: x**0.25),
        "a tenth of the contrast": gray_levels(lambda x: 0.5 + 0.1 * (x - 0.5)),
        "white noise": random.integers(0, 256, films.shape, np.uint8),
        "smooth noise": np.stack(scaled),
    }


def photographs(side: int) -> np.ndarray:
    """Cut 100 squares of at least 200 pixels out of two photographs; uint8 `[100, side, side]`."""
    random, squares = np.random.default_rng(0), []
    for photograph in load_sample_images().images:
        gray = cv2.cvtColor(photograph, cv2.COLOR_RGB2GRAY)
        for _ in range(50):
            size = int(random.integers(200, min(gray.shape) + 1))
            top, left = (int(random.integers(0, length - size + 1)) for length in gray.shape)
            square = np.ascontiguousarray(gray[top : top + size, left : left + size])
            squares.append(resize_film(square, side))
    return np.stack(squares)


def other_pictures(side: int) -> dict[str, np.ndarray]:
    """Read pydicom-data's pictures, if it is installed."""
    spec = importlib.util.find_spec("data_store")
    if spec is None or spec.origin is None:
        return {}
    folder = Path(spec.origin).parent / "data"

    def read(name: str) -> np.ndarray:
        film = dicom.gray_film(dicom.read_header((folder / name).read_bytes()))
        return resize_film(film, side)

    return {
        "a chest (pydicom's RG1)": read("RG1_UNCR.dcm")[None],
        "a leg (pydicom's RG3)": read(LEG)[None],
        "scintigram, MR, test pattern": np.stack([read(name) for name in OTHERS]),
    }


def distances(model: Model, films: np.ndarray) -> np.ndarray:
    """Return the distances of films uint8 `[N, S, S]`, 1 at the threshold."""
    values = []
    for i in range(0, len(films), BATCH):
        part = np.ascontiguousarray(films[i : i + BATCH])
        full = np.concatenate([part, np.zeros((BATCH - len(part), *part.shape[1:]), np.uint8)])
        distance = model.distances(np.asarray(model.predict_batch(full)["pooled"])[: len(part)])
        if distance is None:
            raise SystemExit("the run's calibration knows no features; run eval.py on it first")
        values.append(distance)
    return np.concatenate(values)


def main() -> None:
    """Measure, print, and write --out."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--films", type=Path, nargs="*", default=[], help="folders of other films")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    model, records = load_run(options.workdir), open_records(options.data_dir)
    side, config = model.image_size, model.config
    split = make_split(records, config["data"]["protocol"], config["data"]["split_seed"])
    films = read_batch(records.images_and_labels(), split.test)["image"]
    groups = {"test films as they are": films, **changed(films[:CHANGED])}
    groups |= {"photographs": photographs(side), **other_pictures(side)}
    for folder in options.films:
        paths = sorted(folder.glob("*.png"))
        groups[folder.parent.name] = np.stack([resize_film(load_film(p), side) for p in paths])
    rows = []
    for name, images in groups.items():
        values = distances(model, images)
        share = float((values > 1).mean())
        median = float(np.median(values))
        rows.append({"films": name, "count": len(images), "flagged": share, "median": median})
        print(f"{name:32} {len(images):5} flagged {100 * share:5.1f} %  median {median:.2f}")
    if options.out:
        what = "films flagged as unlike the training films; median distance, 1 at the threshold"
        write_rows(options.out, {"what": what}, rows)


if __name__ == "__main__":
    main()
