"""Prepare a TFDS dataset of grayscale images from NIH's ChestX-ray14 download.

    python data_prep/chestxray14.py --raw_dir RAW --data_dir DATA [--image_size 256]

Writes `DATA/chest_xray14/1.0.0/` (ArrayRecord, one split named `images`) and
`DATA/prepare_report.json`. After an interruption, the same command continues.
"""

from __future__ import annotations

if __name__ == "__main__":
    # Before the imports that take seconds.
    from agcnn_jax.runtime.interrupt import end_quietly

    end_quietly()

import contextlib
import io
import os
import shutil
import time
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core.dataset_builder import FileReaderBuilder

from agcnn_jax.runtime.errors import OneLineParser, UserError, run, say
from agcnn_jax.runtime.machine import available_cores
from data_prep.nih import publish, shards, tables
from data_prep.nih.examples import record_features
from data_prep.nih.lock import lock_data_dir
from data_prep.nih.plans import NAME, VERSION, Plan, make_plan
from data_prep.nih.report import (
    REPORT,
    check_bad,
    check_lists,
    make_report,
    missing,
    summary,
    write_report,
)

SPLIT = "images"
# The digest of the input files and options. Not part of the metadata: the same images in other
# files give the same dataset.
INPUTS = "inputs.txt"


# `FileReaderBuilder` and `_download_and_prepare` are internal to TFDS; checked with 4.9.10.
class ChestXray14(FileReaderBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Publishes finished shards as a TFDS dataset.

    Not registered, so that `tfds.data_source("chest_xray14", data_dir=...)` takes the image size
    from the dataset's own metadata.
    """

    VERSION = tfds.core.Version(VERSION)
    # There are no downloads and no checksums. Looking for a checksum file needs
    # importlib_resources, which TFDS 4.9.10 does not install.
    url_infos = None

    def __init__(self, *, data_dir: Path, plan: Plan, records: list[publish.Record]):
        self._plan = plan
        self._records = records
        self._columns = publish.make_columns(records, plan.context, plan.official)
        super().__init__(data_dir=os.fspath(data_dir), file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        context = self._plan.context
        return tfds.core.DatasetInfo(
            builder=self,
            description="Frontal chest radiographs, one grayscale image a record.",
            homepage="https://nihcc.app.box.com/v/ChestXray-NIHCC",
            features=record_features(context.image_size),
            metadata=tfds.core.MetadataDict(
                labels=list(tables.LABELS),
                findings=list(tables.FINDINGS),
                provenance=self._plan.collection.provenance,
                collection=self._plan.collection.name,
                synthetic=self._plan.collection.synthetic,
                image_size=context.image_size,
                fingerprint=publish.fingerprint(self._records, self._columns, context.image_size),
                digests=self._columns.digests,
                official_names=len(self._plan.official),
            ),
        )

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        del dl_manager, download_config  # nothing is downloaded
        folder = Path(self.data_dir)  # TFDS's temporary folder, renamed at the end
        template = tfds.core.ShardedFileTemplate(
            data_dir=folder, dataset_name=NAME, split=SPLIT, filetype_suffix="array_record"
        )
        sizes = publish.write_shards(
            self._records,
            self._plan.context.scratch,
            lambda index, count: Path(
                template.sharded_filepath(shard_index=index, num_shards=count)
            ),
        )
        for name, table in self._columns.files():
            (folder / name).write_bytes(table)
        (folder / INPUTS).write_text(f"{self._plan.digest}\n")
        split = tfds.core.SplitInfo(
            name=SPLIT,
            shard_lengths=[records for records, _ in sizes],
            num_bytes=sum(size for _, size in sizes),
            filename_template=template,
        )
        self.info.set_splits(tfds.core.splits.SplitDict([split]))


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
    store = data_dir / NAME / VERSION
    with lock_data_dir(data_dir):
        if store.exists():
            _check_same(store, plan)
            return f"{store} is already prepared from these files with these options"
        started = time.monotonic()
        new_images = shards.write_units(plan.units, plan.context, plan.images, num_workers)
        seconds = time.monotonic() - started
        outcome = publish.collect(plan.units, plan.context.scratch)
        report = make_report(plan, outcome)
        write_report(data_dir / REPORT, report)
        check_bad(report, max_bad, data_dir / REPORT)
        check_lists(plan, outcome)
        if warning := missing(report):
            say(warning)
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces downloads
            builder = ChestXray14(data_dir=data_dir, plan=plan, records=outcome.records)
            builder.download_and_prepare(download_dir=plan.context.scratch / "downloads")
        shutil.rmtree(plan.context.scratch, ignore_errors=True)
    return f"{summary(report)}, {new_images / max(seconds, 1e-9):.0f} files/s: {store}"


def _check_same(store: Path, plan: Plan) -> None:
    """Raise `UserError` if the store was made from other files or options."""
    try:
        digest = (store / INPUTS).read_text().strip()
    except (OSError, ValueError):
        digest = None
    if digest != plan.digest:
        raise UserError(
            f"--data_dir: {store} was made from other files or with other options; "
            "delete it or choose another --data_dir"
        )


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
    for name in ("image_size", "workers", "box_size"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} {value}: must be 1 or more")
    if not 0 <= options.max_bad <= 1:
        raise UserError(f"--max_bad {options.max_bad:g}: must be a share between 0 and 1")
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


if __name__ == "__main__":
    # TFDS refuses a builder class that lives in `__main__`.
    from data_prep.chestxray14 import main as importable_main

    run(importable_main)
