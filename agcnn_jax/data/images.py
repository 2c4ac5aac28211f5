"""Random access to the images of a prepared dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import SupportsIndex

import numpy as np
from array_record.python import array_record_data_source
from google.protobuf.message import DecodeError
from tensorflow_datasets.proto import tf_example_pb2

from agcnn_jax.runtime.errors import UserError


class ImagesAndLabels(Sequence[dict[str, np.ndarray]]):
    """Item i is `{"image": uint8 [S, S], "labels": uint8 [C]}` of record i.

    The labels come from the dataset's table, which evaluation uses as well. Each record's image id
    is checked against the table. Instances can be pickled; a copy reopens the shards.
    """

    def __init__(
        self,
        shards: tuple[tuple[str, int], ...],
        image_size: int,
        image_ids: np.ndarray,
        label_matrix: np.ndarray,
    ):
        """Open the shards.

        Args:
            shards: path and number of records of each shard.
            image_size: side S of the images in pixels.
            image_ids: str `[N]`.
            label_matrix: 0, 1 or `MISSING`, uint8 `[N, C]`.
        """
        self._shards = shards
        self._image_ids = image_ids
        self._label_matrix = label_matrix
        self._ends = np.cumsum([count for _, count in shards])
        self._image_size = image_size
        self._reader = array_record_data_source.ArrayRecordDataSource(
            [f"{path}[0:{count}]" for path, count in shards]
        )

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray]:  # type: ignore[override]
        """Return one record.

        Raises:
            IndexError: the index is not in `[0, len)`.
            UserError: the record's shard is damaged or belongs to another dataset.
        """
        position = index.__index__()
        if not 0 <= position < len(self):
            raise IndexError(f"record {position} of {len(self)}")
        try:
            # TFDS's own message, without its features, which take four times as long to decode it.
            record = tf_example_pb2.Example.FromString(self._reader[position]).features.feature
            (image,), (image_id,) = (
                record[name].bytes_list.value for name in ("image", "image_id")
            )
            if image_id.decode() != self._image_ids[position]:
                raise ValueError("another image")
            pixels = np.frombuffer(image, np.uint8).reshape(self._image_size, self._image_size)
        except (RuntimeError, ValueError, IndexError, OSError, DecodeError):
            shard = self._shards[int(np.searchsorted(self._ends, position, side="right"))][0]
            raise UserError(
                f"{shard}: record {position} is damaged or is not {self._image_ids[position]}, the "
                "image that records.csv names; delete the dataset and prepare it again"
            ) from None
        return {"image": pixels, "labels": self._label_matrix[position]}

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:  # grain prints the source of a pipeline
        return f"ImagesAndLabels({len(self)} records)"
