"""Prepare a TFDS dataset of grayscale images from NIH's ChestX-ray14 download.

    python data_prep/chestxray14.py --raw_dir RAW --data_dir DATA [--image_size 256]

Writes `DATA/chest_xray14/1.0.0/` (ArrayRecord, one split named `images`) and
`DATA/prepare_report.json`. After an interruption, the same command continues.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

from agcnn_jax.data_prep.nih.plans import make_plan
from agcnn_jax.data_prep.nih.report import check_bad, check_lists, make_report, missing, summary
from agcnn_jax.data_prep.prepare.plans import Plan
from agcnn_jax.data_prep.prepare.publish import Outcome
from agcnn_jax.data_prep.prepare.store import (
    REPORT,
    StoreBuilder,
    check_options,
    write_report,
    write_store,
)
from agcnn_jax.runtime import errors
from agcnn_jax.runtime.errors import OneLineParser, say
from agcnn_jax.runtime.machine import available_cores


class ChestXray14(StoreBuilder, skip_registration=True):  # type: ignore[call-arg]
    """The dataset `chest_xray14`."""

    HOMEPAGE = "https://nihcc.app.box.com/v/ChestXray-NIHCC"


def prepare(plan: Plan, data_dir: Path, *, num_workers: int, max_bad: float) -> str:
    """Write the dataset and the report.

    Args:
        plan: from `make_plan` with the same `data_dir`.
        data_dir: folder of the dataset, created if necessary.
        num_workers: number of decoding processes.
        max_bad: largest accepted share of files set aside, 0 to 1.

    Returns:
        A line that says what was done.

    Raises:
        UserError: the folder holds another dataset, too many files are set aside, the official
            lists name none of the images, or the disk is full.
    """

    def review(outcome: Outcome) -> str:
        report = make_report(plan, outcome)
        write_report(data_dir / REPORT, report)
        check_bad(report, max_bad, data_dir / REPORT)
        check_lists(plan, outcome)
        if warning := missing(report):
            say(warning)
        return summary(report)

    return write_store(plan, data_dir, ChestXray14, review, num_workers)


def parse_arguments(arguments: list[str] | None = None) -> Any:
    """Parse the command line; raises `UserError` for invalid options."""
    parser = OneLineParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
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
