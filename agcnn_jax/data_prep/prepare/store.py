"""Publishing a plan's records as a TFDS dataset, whole or not at all."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core.dataset_builder import FileReaderBuilder

from agcnn_jax.data.labels import findings_of
from agcnn_jax.data.records import STORES
from agcnn_jax.data.store import SPLIT
from agcnn_jax.data_prep.prepare import publish, shards
from agcnn_jax.data_prep.prepare.examples import record_features
from agcnn_jax.data_prep.prepare.lock import lock_data_dir
from agcnn_jax.data_prep.prepare.plans import VERSION, Plan
from agcnn_jax.runtime.errors import UserError

# The digest of the input files and options. Not part of the metadata: the same images in other
# files give the same dataset.
INPUTS = "inputs.txt"
REPORT = "prepare_report.json"
"""What happened to every file, in the folder of the dataset."""


# `FileReaderBuilder` and `_download_and_prepare` are internal to TFDS; checked with 4.9.10.
class StoreBuilder(FileReaderBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Publishes finished shards as a TFDS dataset, named after the subclass.

    Not registered, so that `tfds.data_source(NAME, data_dir=...)` takes the image size from the
    dataset's own metadata.
    """

    VERSION = tfds.core.Version(VERSION)
    HOMEPAGE: str | None = None
    # There are no downloads and no checksums. Looking for a checksum file needs
    # importlib_resources, which TFDS 4.9.10 does not install.
    url_infos = None

    def __init__(self, *, data_dir: Path, plan: Plan, outcome: publish.Outcome):
        self._plan = plan
        self._records = outcome.records
        self._columns = publish.make_columns(outcome, plan.context, plan.official)
        super().__init__(data_dir=os.fspath(data_dir), file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        context = self._plan.context
        return tfds.core.DatasetInfo(
            builder=self,
            description="Frontal chest radiographs, one grayscale image a record.",
            homepage=self.HOMEPAGE,
            features=record_features(context.image_size, len(context.labels)),
            metadata=tfds.core.MetadataDict(
                labels=list(context.labels),
                findings=list(findings_of(context.labels)),
                provenance=self._plan.collection.provenance,
                collection=self._plan.collection.name,
                synthetic=self._plan.collection.synthetic,
                image_size=context.image_size,
                fingerprint=publish.fingerprint(self._records, self._columns, context),
                digests=self._columns.digests,
                official_names=len(self._plan.official),
            ),
        )

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        del dl_manager, download_config  # nothing is downloaded
        folder = Path(self.data_dir)  # TFDS's temporary folder, renamed at the end
        template = tfds.core.ShardedFileTemplate(
            data_dir=folder,
            dataset_name=self._plan.name,
            split=SPLIT,
            filetype_suffix="array_record",
        )
        sizes = publish.write_shards(
            self._records,
            self._plan.units,
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


def write_store(
    plan: Plan,
    data_dir: Path,
    builder: type[StoreBuilder],
    review: Callable[[publish.Outcome], str],
    num_workers: int,
) -> str:
    """Write the dataset, continuing what an interrupted run with the same plan has done.

    Args:
        plan: with a scratch folder in `data_dir`.
        data_dir: folder of the dataset, created if necessary.
        builder: whose name is the plan's.
        review: reports on the records before they are published; returns a summary.
        num_workers: number of decoding processes.

    Returns:
        A line that says what was done.

    Raises:
        UserError: the folder holds another dataset, the disk is full, or `review` raises it.
    """
    store = data_dir / plan.name / VERSION
    for other in STORES:
        if other.parts[0] != plan.name and (data_dir / other).exists():
            raise UserError(
                f"--data_dir {data_dir}: holds the dataset {other.parts[0]}; choose another "
                "--data_dir"
            )
    scratch = plan.context.scratch
    with lock_data_dir(data_dir, plan.name, scratch):
        if store.exists():
            _check_same(store, plan)
            return f"{store} is already prepared from these files with these options"
        started = time.monotonic()
        try:
            new_images = shards.write_units(plan.units, plan.context, plan.images, num_workers)
        except shards.TableError:
            # The units depend on the table, and will be others when it has been corrected.
            shards.remove_units(scratch, [])
            raise
        seconds = time.monotonic() - started
        outcome = publish.collect(plan.units, scratch)
        summary = review(outcome)
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces downloads
            built = builder(data_dir=data_dir, plan=plan, outcome=outcome)
            built.download_and_prepare(download_dir=scratch / "downloads")
        shutil.rmtree(scratch, ignore_errors=True)
    return f"{summary}, {new_images / max(seconds, 1e-9):.0f} files/s: {store}"


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


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Write the report as JSON, atomically."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    os.replace(part, path)
