"""Films of all kinds in nested folders, their table, and the command that prepares them."""

import csv
import io

import numpy as np
from PIL import Image

from agcnn_jax.data_prep.from_csv import main
from tests.data.dicom_files import encoded, radiograph

FINDINGS = ("Effusion", "Mass", "Scoliosis")
COLLECTION = "St Mary 2024"


def film_bytes(name, seed, side=40):
    """Return a film of `side` x `side + 7` pixels in the format that its name has."""
    rng = np.random.default_rng(seed)
    levels = rng.integers(0, 4096, (side, side + 7)).astype(np.uint16)
    if name.endswith((".dcm", "dicom")):
        return encoded(radiograph(levels))
    kind = {"png": "PNG", "tif": "TIFF"}.get(name.rpartition(".")[2], "JPEG")
    buffer = io.BytesIO()
    Image.fromarray(levels if kind == "PNG" else (levels >> 4).astype(np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def make_films(folder, names, side=40):
    """Write a film for each path."""
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(film_bytes(name, seed, side))
    return folder


def write_table(path, rows, header=("image", "patient", *FINDINGS)):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def prepare(folder, *options):
    """Prepare `folder`/films with `folder`/labels.csv to `folder`/data."""
    return main(
        [
            *(f"--images={folder / 'films'}", f"--labels={folder / 'labels.csv'}"),
            *(f"--collection={COLLECTION}", f"--data_dir={folder / 'data'}"),
            *("--image_size=32", "--workers=1", *options),
        ]
    )
