"""Stored records to batches, with grain: read, shuffle, share between processes, batch.

The host only moves bytes. Crops, flips and normalisation run on the device.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Protocol, SupportsIndex

import grain
import numpy as np

Batch = dict[str, Any]


class Source(Protocol):
    """Random access to records."""

    def __len__(self) -> int:
        """Count the records."""

    def __getitem__(self, record: SupportsIndex) -> dict[str, np.ndarray]:
        """Read a record: `image` uint8 `[S, S]` and `labels` uint8 `[C]`."""


def training_batches(
    source: Source,
    indices: np.ndarray,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.MapDataset:
    """Endless batches in a new order every epoch; element k is the batch of step k.

    Every epoch is a permutation of `indices` drawn from `seed` and the epoch's number; its last
    images, too few for a batch, are left out of that epoch. The global batch of a step holds the
    same records however many processes share it.

    Args:
        source: the store's records.
        indices: int64 `[N]`, records of the training subset.
        batch_size: of the global batch; a multiple of `process_count`.
        seed: of the order.
        process_index: this process.
        process_count: all processes.

    Returns:
        Elements `{"image": uint8 [b, S, S], "labels": uint8 [b, C], "record": int32 [b],
        "step": int}` with `b = batch_size / process_count`.
    """
    dataset = grain.MapDataset.source(indices).seed(seed).shuffle()
    # Whole global batches first, then this process's part of each.
    dataset = dataset.batch(batch_size, drop_remainder=True).repeat()
    mine = process_rows(batch_size, process_index, process_count)
    return dataset.map(lambda records: read_batch(source, records[mine])).map_with_index(
        lambda step, batch: {**batch, "step": step}
    )


def process_rows(batch_size: int, process_index: int, process_count: int) -> slice:
    """The rows of a global batch that a process reads: side by side, as its devices are."""
    share = batch_size // process_count
    return slice(process_index * share, (process_index + 1) * share)


def iterate(
    dataset: grain.MapDataset, stage: Callable[[Batch], Batch] | None = None, ahead: int = 1
) -> grain.DatasetIterator:
    """Read a dataset in threads, ahead of its consumer.

    Args:
        dataset: see `training_batches`.
        stage: a last transformation, such as the host cropper. It runs in one thread of its own,
            `ahead` batches before the consumer.
        ahead: number of batches that may wait behind `stage`.

    Returns:
        An iterator whose state counts the batches consumed, not those read ahead.
    """
    threads = min(16, os.cpu_count() or 1)
    batches = dataset.to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    )
    if stage is not None:
        batches = grain.experimental.ThreadPrefetchIterDataset(
            batches.map(stage), prefetch_buffer_size=ahead
        )
    return iter(batches)


def evaluation_batches(
    source: Source,
    indices: np.ndarray,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator:
    """Batches of a subset in order, all of one size: the last is filled up with repeats.

    Args:
        source: the store's records.
        indices: int64 `[N]`, records of the subset.
        batch_size: of the global batch; a multiple of `process_count`.
        process_index: this process.
        process_count: all processes.

    Returns:
        An iterator over `{"image": ..., "labels": ..., "record": ...}` as `training_batches`; in
        all processes together `ceil(N / batch_size) * batch_size` images, of which the first N
        count.
    """
    padding = -len(indices) % batch_size
    padded = np.concatenate([indices, np.repeat(indices[-1:], padding)])
    dataset = grain.MapDataset.source(padded).batch(batch_size)
    mine = process_rows(batch_size, process_index, process_count)
    return iterate(dataset.map(lambda records: read_batch(source, records[mine])))


def read_batch(source: Source, records: np.ndarray) -> Batch:
    """Read records `[b]` as one batch of arrays."""
    rows = [source[record] for record in records]
    return {
        "image": np.stack([row["image"] for row in rows]),
        "labels": np.stack([row["labels"] for row in rows]),
        "record": np.asarray(records, np.int32),
    }
