"""The features of a record and its serialisation."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.example_serializer import ExampleSerializer


def record_features(image_size: int, labels: int) -> tfds.features.FeaturesDict:
    """Return the features of a record.

    `image` is uint8 `[S, S]`, `labels` uint8 0, 1 or `MISSING` `[C]`, `boxes` float32 `[N, 4]`
    half-open `xmin, ymin, xmax, ymax` in pixels of the original file, `box_findings` int64 `[N]`
    indices into the labels, `age` in years or -1 if unknown, `height` and `width` those of the
    original. The image is stored as raw bytes because `tfds.features.Image` would import
    TensorFlow.

    Args:
        image_size: side S of the image in pixels.
        labels: their number C.
    """
    features = tfds.features
    image_shape = (image_size, image_size)
    return features.FeaturesDict(
        {
            "image": features.Tensor(
                shape=image_shape, dtype=np.uint8, encoding=features.Encoding.BYTES
            ),
            "labels": features.Tensor(shape=(labels,), dtype=np.uint8),
            "image_id": features.Text(),
            "patient_id": features.Text(),
            "follow_up": features.Scalar(np.int32),
            "age": features.Scalar(np.int32),
            "sex": features.Text(),
            "view": features.Text(),
            "height": features.Scalar(np.int32),
            "width": features.Scalar(np.int32),
            "boxes": features.Tensor(shape=(None, 4), dtype=np.float32),
            "box_findings": features.Tensor(shape=(None,), dtype=np.int64),
        }
    )


# `ExampleSerializer` is internal to TFDS; checked with 4.9.10.
@functools.cache
def _serializer(
    image_size: int, labels: int
) -> tuple[tfds.features.FeaturesDict, ExampleSerializer]:
    features = record_features(image_size, labels)
    return features, ExampleSerializer(features.get_serialized_info())


def serialize(image_size: int, record: dict[str, Any]) -> bytes:
    """Return the record's `tf.train.Example`.

    Unlike `features.serialize_example` it is deterministic: protobuf orders the entries of a map by
    a hash that differs between processes.
    """
    features, serializer = _serializer(image_size, len(record["labels"]))
    example = serializer.get_tf_example(features.encode_example(record))
    return example.SerializeToString(deterministic=True)
