r"""Draw synthetic chest radiographs (phantoms) in the layout of NIH's ChestX-ray14.

    agcnn-prepare phantoms --out_dir RAW [--patients N] [--size 256] [--seed 0] \
        [--prevalence floor|real] [--workers N]

Writes `RAW/images/*.png` (8-bit gray), `Data_Entry_2017_v2020.csv`, `BBox_List_2017.csv` (in pixels
of these files), `train_val_list.txt`, `test_list.txt` and finally `dataset.json`, which says that
the images are synthetic. After an interruption, the same command continues.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import NoReturn

from agcnn_jax.data.collection import FILE
from agcnn_jax.data_prep.phantom import cohort
from agcnn_jax.data_prep.phantom.generate import generate
from agcnn_jax.data_prep.phantom.render import PROVENANCE
from agcnn_jax.data_prep.phantom.sheet import contact_sheet
from agcnn_jax.runtime import errors

DEFAULT_PATIENTS = 1200
MIN_PATIENTS, MIN_SIZE, MAX_SIZE = 10, 64, 1024


def _parse_arguments() -> argparse.Namespace:
    parser = errors.OneLineParser(about=__doc__)
    parser.add_argument("--out_dir", type=Path, help="output folder, in NIH's layout")
    parser.add_argument("--patients", type=int, default=DEFAULT_PATIENTS,
                        help="number of patients; %(default)s have about 4,000 images")  # fmt: skip
    parser.add_argument("--size", type=int, default=256, help="side of the images in pixels (256)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the cohort (%(default)s)")
    parser.add_argument("--prevalence", choices=cohort.PREVALENCES, default="floor",
                        help="floor: every finding is on at least 3 %% of the films; real: as "
                        "in ChestX-ray14, with hernias on 0.2 %% (%(default)s)")  # fmt: skip
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)),
                        help="processes; do not change the output (%(default)s)")  # fmt: skip
    parser.add_argument("--contact_sheet", type=Path, metavar="FILE",
                        help="save a picture of each finding as FILE")  # fmt: skip
    options = parser.parse_args()
    if options.out_dir is None and options.contact_sheet is None:
        raise errors.UserError("--out_dir is missing; name the output folder")
    for option, value, low, high in (
        ("--patients", options.patients, MIN_PATIENTS, 99_999_999),
        ("--size", options.size, MIN_SIZE, MAX_SIZE),
        ("--seed", options.seed, 0, 2**32 - 1),
        ("--workers", options.workers, 1, 4096),
    ):
        if not low <= value <= high:
            raise errors.UserError(f"{option} {value} is outside {low} to {high}")
    sheet = options.contact_sheet
    if sheet is not None and sheet.suffix.lower() != ".png":
        raise errors.UserError(f"--contact_sheet {sheet}: the file name must end in .png")
    return options


def _say(text: str) -> None:
    """Print a text that may contain file names that are not UTF-8."""
    print(text.encode(errors="backslashreplace").decode())


def main() -> None:
    """Run the command."""
    options = _parse_arguments()
    if options.contact_sheet is not None:
        contact_sheet(options.contact_sheet, options.seed, options.size)
        _say(f"{options.contact_sheet}: {PROVENANCE}")
    if (out_dir := options.out_dir) is not None:
        count, size, seed = options.patients, options.size, options.seed
        new = generate(out_dir, count, size, seed, options.workers, options.prevalence)
        images = json.loads((out_dir / FILE).read_text())["images"]
        note = "" if new else "already complete: "
        _say(f"{out_dir}: {note}{images} images of {count} patients, {PROVENANCE}")


def run() -> NoReturn:
    """Run the command as a program."""
    errors.run(main)
