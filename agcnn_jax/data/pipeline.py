"""Batches of records, with grain: shuffle, divide among processes, read, batch.

The host only moves bytes. Crops, flips and normalisation run on the device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, SupportsIndex

import grain
import numpy as np

from agcnn_jax.runtime.machine import available_cores

Batch = dict[str, Any]


class Source(Protocol):
    """Random access to records."""

    def __len__(self) -> int:
        """Return the number of records."""

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
    """Return endless batches, reshuffled each epoch; element k is the batch of step k.

    Each epoch is a permutation of `indices` drawn from `seed` and the epoch number, without the
    incomplete last batch. The records of a step's global batch do not depend on the number of
    processes.

    Args:
        source: the records.
        indices: int64 `[N]`, the training subset.
        batch_size: global batch size, a multiple of `process_count`.
        seed: seed of the shuffling.
        process_index: index of this process.
        process_count: number of processes.

    Returns:
        Elements `{"image": uint8 [b, S, S], "labels": uint8 [b, C], "record": int32 [b],
        "step": int}` with `b = batch_size / process_count`.
    """
    # Positions, since shuffling and batching the indices themselves takes grain twice as long.
    dataset = grain.MapDataset.range(len(indices)).seed(seed).shuffle()
    # First whole global batches, then this process's part of each.
    dataset = dataset.batch(batch_size, drop_remainder=True, batch_fn=np.array).repeat()
    mine = process_rows(batch_size, process_index, process_count)
    return dataset.map(lambda rows: read_batch(source, indices[rows[mine]])).map_with_index(
        lambda step, batch: {**batch, "step": step}
    )


def process_rows(batch_size: int, process_index: int, process_count: int) -> slice:
    """Return the rows of a global batch that a process reads, contiguous like its devices."""
    share = batch_size // process_count
    return slice(process_index * share, (process_index + 1) * share)


def iterate(
    dataset: grain.MapDataset,
    stage: Callable[[Batch], Batch] | None = None,
    ahead: int = 1,
    threads: int | None = None,
) -> grain.DatasetIterator:
    """Read a dataset in threads, ahead of the consumer.

    Args:
        dataset: see `training_batches`.
        stage: a last transformation, such as the host cropper. It runs in its own thread, `ahead`
            batches before the consumer.
        ahead: number of batches that `stage` may finish in advance.
        threads: number of threads that read; by default one for two cores, at most four.

    Returns:
        An iterator whose state counts the consumed batches, not those read ahead.
    """
    # Threads hide a disk's waits, but only one at a time runs Python: on two cores, with records in
    # memory, two threads read at two thirds of one thread's speed, and four at less than half.
    threads = threads or min(4, max(1, available_cores() // 2))
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
    """Return the batches of a subset in order; repeats of the last record fill the last batch.

    Args:
        source: the records.
        indices: int64 `[N]`, the subset.
        batch_size: global batch size, a multiple of `process_count`.
        process_index: index of this process.
        process_count: number of processes.

    Returns:
        An iterator over `{"image": ..., "labels": ..., "record": ...}` as in `training_batches`.
        All processes together read `ceil(N / batch_size) * batch_size` images; the first N count.
    """
    padding = -len(indices) % batch_size
    padded = np.concatenate([indices, np.repeat(indices[-1:], padding)])
    dataset = grain.MapDataset.source(padded.reshape(-1, batch_size))
    mine = process_rows(batch_size, process_index, process_count)
    return iterate(dataset.map(lambda records: read_batch(source, records[mine])))


def read_batch(source: Source, records: np.ndarray) -> Batch:
    """Read records `[b]` into one batch of arrays."""
    # Each record is copied into the batch as it is read: holding all of them until the last would
    # take twice the memory and a third more time.
    for row, record in enumerate(records):
        read = source[record]
        if not row:
            images, labels = (
                np.empty((len(records), *read[name].shape), read[name].dtype)
                for name in ("image", "labels")
            )
        images[row], labels[row] = read["image"], read["labels"]
    return {"image": images, "labels": labels, "record": np.asarray(records, np.int32)}
