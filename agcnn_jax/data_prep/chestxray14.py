"""Prepare a TFDS dataset of grayscale images from NIH's ChestX-ray14 download.

    agcnn-prepare chestxray14 --raw_dir RAW --data_dir DATA [--image_size 256]

Writes `DATA/chest_xray14/1.0.0/` (ArrayRecord, one split named `images`) and
`DATA/prepare_report.json`. After an interruption, the same command continues.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

from agcnn_jax.data_prep.prepare.options import check_options
from agcnn_jax.runtime import errors
from agcnn_jax.runtime.errors import OneLineParser
from agcnn_jax.runtime.machine import available_cores


def parse_arguments(arguments: list[str] | None = None) -> Any:
    """Parse the command line; raises `UserError` for invalid options."""
    parser = OneLineParser(about=__doc__)
    add = parser.add_argument
    add("--raw_dir", type=Path, required=True, help="folder with NIH's images or images_* archives")
    add("--data_dir", type=Path, required=True, help="folder to write the dataset to")
    add("--image_size", type=int, default=256, help="side of the stored images, pixels (256)")
    add("--workers", type=int, default=available_cores(), help="processes (all cores)")
    add("--max_bad", type=float, default=0.01, help="accepted share of unusable files (0.01)")
    add("--labels", type=Path, help="label table; else Data_Entry_2017*.csv[.gz] near the images")
    add("--boxes", type=Path, help="box list; else BBox_List_2017*.csv[.gz] near the images")
    add("--lists", type=Path, help="folder with train_val_list.txt and test_list.txt")
    add("--box_size", type=int, help="side of the images that boxes refer to (1024)")
    options = parser.parse_args(arguments)
    check_options(options, "image_size", "workers", "box_size")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    options = parse_arguments(arguments)
    # Imported here, since TFDS takes a second.
    from agcnn_jax.data_prep.nih.dataset import prepare
    from agcnn_jax.data_prep.nih.plans import make_plan

    plan = make_plan(
        options.raw_dir,
        options.data_dir,
        image_size=options.image_size,
        labels=options.labels,
        boxes=options.boxes,
        lists=options.lists,
        box_size=options.box_size,
    )
    print(
        prepare(plan, options.data_dir, num_workers=options.workers, max_bad=options.max_bad),
        flush=True,
    )
    return 0


def run() -> NoReturn:
    """Run the command as a program."""
    errors.run(main)
