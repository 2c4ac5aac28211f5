"""Units of work: a run of image files or one archive becomes one ArrayRecord shard.

A worker reads, decodes and writes a unit by itself, so no image crosses a process boundary and
memory does not grow with the number of images. A finished unit is a shard and a JSON file beside
it, named by a hash of everything they depend on: a later run with the same inputs finds them.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import gzip
import hashlib
import json
import os
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from agcnn_jax.data.films import MAX_BYTES, UnreadableImageError, WrongSizeError, read_image
from agcnn_jax.runtime.errors import UserError
from data_prep.nih.layout import Input, is_image_name
from data_prep.nih.tables import LABELS, Box, LabelRow

UNREADABLE = "unreadable image"
NO_ROW = "no label row"
WRONG_SIZE = "wrong size"
DUPLICATE = "duplicate"
CONFLICT = "same name, other image"
REASONS = (UNREADABLE, NO_ROW, WRONG_SIZE, DUPLICATE, CONFLICT)

# Radiographs hardly compress: Zstandard takes 13 % off a shard and makes reading 3 times slower.
WRITER_OPTIONS = "group_size:1,uncompressed"
# Images in a shard: few enough for all cores to share a small set, so many that a full one is about
# a hundred shards. A function of the inputs alone, so workers do not change the store.
MIN_SHARD, MAX_SHARD, SHARDS = 32, 1024, 64


class Unit(NamedTuple):
    """One shard's inputs; `key` names its files and changes with anything they depend on."""

    inputs: tuple[Input, ...]
    key: str


class Written(NamedTuple):
    """A record: its file and image name, hex SHA-256 of its pixels, side of the file in pixels."""

    file: str
    image_id: str
    digest: str
    side: int


class SetAside(NamedTuple):
    """A file that did not become a record: where and what, why (one of `REASONS`), details."""

    file: str
    image_id: str
    reason: str
    detail: str


class UnitResult(NamedTuple):
    """What became of a unit's files; `written` is in the order of the shard's records."""

    written: list[Written]
    set_aside: list[SetAside]


class Context(NamedTuple):
    """What every unit needs: folders, tables (see `tables`), sizes in pixels."""

    raw_dir: Path
    scratch: Path
    labels: dict[str, LabelRow]
    boxes: dict[str, tuple[Box, ...]]
    box_size: int
    image_size: int


def record_features(image_size: int) -> tfds.features.FeaturesDict:
    """Return the features of a record.

    `image` is uint8 `[S, S]`, `labels` uint8 0/1 `[C]`, `boxes` float32 `[N, 4]` half-open
    `xmin, ymin, xmax, ymax` in pixels of the original file, `box_findings` int64 `[N]` indices
    into the labels; `age` is in years, -1 when not given; `height` and `width` are the original's.
    The image is raw bytes: `tfds.features.Image` would import TensorFlow.
    """
    features = tfds.features
    image_shape = (image_size, image_size)
    return features.FeaturesDict(
        {
            "image": features.Tensor(
                shape=image_shape, dtype=np.uint8, encoding=features.Encoding.BYTES
            ),
            "labels": features.Tensor(shape=(len(LABELS),), dtype=np.uint8),
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


def split_units(inputs: list[Input], settings: str) -> list[Unit]:
    """Divide sorted inputs into units: each archive is one, files between archives in runs.

    Args:
        inputs: what `find_inputs` returned.
        settings: text that changes with every option and table that a record depends on.
    """
    size = shard_size(sum(item.kind == "image" for item in inputs))
    runs: list[list[Input]] = []
    for item in inputs:
        run = runs[-1] if runs else []
        if not run or len(run) == size or "archive" in (item.kind, run[-1].kind):
            runs.append([])
        runs[-1].append(item)
    return [
        Unit(tuple(run), hashlib.sha256(f"{settings}\n{run}".encode()).hexdigest()[:32])
        for run in runs
    ]


def shard_size(images: int) -> int:
    """Return how many of so many images go into one shard."""
    return min(max(images // SHARDS, MIN_SHARD), MAX_SHARD)


def shard_path(scratch: Path, unit: Unit) -> Path:
    """Return where the unit's shard is while the dataset is being prepared."""
    return scratch / f"{unit.key}.array_record"


def read_result(scratch: Path, unit: Unit) -> UnitResult | None:
    """Return what an earlier run noted about the unit, None if it did not finish it."""
    try:
        note = json.loads((scratch / f"{unit.key}.json").read_text("utf-8"))
        if shard_path(scratch, unit).stat().st_size != note["shard_bytes"]:
            return None
        return UnitResult(
            [Written(*entry) for entry in note["written"]],
            [SetAside(*entry) for entry in note["set_aside"]],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_unit(unit: Unit, context: Context, progress: Callable[[], None]) -> None:
    """Write the unit's shard, then the note that it is finished.

    Args:
        unit: the inputs.
        context: folders, tables and sizes.
        progress: called after each image; what it raises stops the unit.

    Raises:
        UserError: an archive is damaged, or the disk is full.
    """
    path = shard_path(context.scratch, unit)
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        with full_disk_named(context.scratch):
            result = _write_shard(part, unit, context, progress)
            os.replace(part, path)
            note = result._asdict() | {"shard_bytes": path.stat().st_size}
            part.write_text(json.dumps(note), "utf-8")
            os.replace(part, path.with_suffix(".json"))
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def full_disk_named(folder: Path) -> Iterator[None]:
    """Raise `UserError` naming a folder for which the disk has no room while shards are written."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # array_record says RuntimeError for any I/O error
        if os.strerror(errno.ENOSPC) in str(error):
            raise UserError(
                f"{folder}: no space left on the device; free some and rerun, what is done is kept"
            ) from None
        raise


def _write_shard(
    part: Path, unit: Unit, context: Context, progress: Callable[[], None]
) -> UnitResult:
    result = UnitResult([], [])
    writer = array_record_module.ArrayRecordWriter(os.fspath(part), WRITER_OPTIONS)
    for file, image_id, data in _files(unit, context.raw_dir):
        example = _example(file, image_id, data, context, result)
        if example is not None:
            writer.write(example)
        progress()
    writer.close()
    return result


def _example(
    file: str,
    image_id: str,
    data: bytes | str,
    context: Context,
    result: UnitResult,
) -> bytes | None:
    """Return the record of an image; note in `result` whether it is written or set aside."""
    try:
        if isinstance(data, str):
            raise UnreadableImageError(data)
        image, side = read_image(data, context.image_size)
        reason, detail = "", ""
    except UnreadableImageError as error:
        reason, detail = UNREADABLE, str(error)
    except WrongSizeError as error:
        reason, detail = WRONG_SIZE, str(error)
    if reason != UNREADABLE and image_id not in context.labels:
        reason, detail = NO_ROW, "the label table has no row for it"
    if reason:
        result.set_aside.append(SetAside(file, image_id, reason, detail))
        return None
    row = context.labels[image_id]
    labels = np.zeros(len(LABELS), np.uint8)
    labels[list(row.labels)] = 1
    boxes = [box.scaled(side / context.box_size) for box in context.boxes.get(image_id, ())]
    result.written.append(
        Written(file, image_id, hashlib.sha256(image.tobytes()).hexdigest(), side)
    )
    return _serialize(
        context.image_size,
        {
            "image": image,
            "labels": labels,
            "image_id": image_id,
            "patient_id": row.patient_id,
            "follow_up": row.follow_up,
            "age": row.age,
            "sex": row.sex,
            "view": row.view,
            "height": side,
            "width": side,
            "boxes": np.array([box[1:] for box in boxes], np.float32).reshape(-1, 4),
            "box_findings": np.array([box.finding for box in boxes], np.int64),
        },
    )


@functools.cache
def _serializer(image_size: int) -> tuple[tfds.features.FeaturesDict, ExampleSerializer]:
    features = record_features(image_size)
    return features, ExampleSerializer(features.get_serialized_info())


def _serialize(image_size: int, record: dict[str, Any]) -> bytes:
    """Return the record's `tf.train.Example`.

    As `features.serialize_example`, but deterministic: protobuf orders a map's entries by a hash
    that differs from process to process.
    """
    features, serializer = _serializer(image_size)
    example = serializer.get_tf_example(features.encode_example(record))
    return example.SerializeToString(deterministic=True)


def _files(unit: Unit, raw_dir: Path) -> Iterator[tuple[str, str, bytes | str]]:
    """Yield each image's place, its name, and its bytes or a text saying why there are none."""
    for item in unit.inputs:
        path = raw_dir / item.path
        if item.kind == "archive":
            yield from _members(path, item.path)
            continue
        yield item.path, item.path.rsplit("/", 1)[-1], _content(path)


def _content(path: Path) -> bytes | str:
    """Return the file's bytes, or a text saying why there are none."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a FIFO would wait forever
            return "not a regular file"
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        return error.strerror or "cannot be read"


def _members(path: Path, name: str) -> Iterator[tuple[str, str, bytes | str]]:
    """As `_files`, for an archive's images, without unpacking it to disk."""
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: an archive's name, but not a regular file; remove or rename it")
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            stream: IO[bytes] = gzip.GzipFile(fileobj=file) if packed else file  # type: ignore[assignment]
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                while (member := archive.next()) is not None:
                    # tarfile keeps every member it met; memory would grow with the archive.
                    archive.members.clear()  # type: ignore[attr-defined]
                    if not is_image_name(member.name):
                        continue
                    content = archive.extractfile(member) if member.isreg() else None
                    yield (
                        f"{name}:{member.name}",
                        member.name.rsplit("/", 1)[-1],
                        content.read(MAX_BYTES + 1) if content else "not a regular file",
                    )
            # tarfile takes the end of the file for the end of the archive; gzip checks its sum
            # only when read to the end.
            if packed:
                while stream.read(1 << 20):
                    pass
            else:
                file.seek(-512, os.SEEK_END)
                if file.read().strip(b"\0"):
                    raise EOFError
    except (tarfile.TarError, EOFError, OSError, zlib.error):
        raise UserError(
            f"{path}: the archive is damaged or was not downloaded to its end; download it again "
            "and rerun, what is done is kept"
        ) from None
