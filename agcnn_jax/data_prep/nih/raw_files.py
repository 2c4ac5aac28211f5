"""Reading NIH's image files from folders and archives."""

from __future__ import annotations

import gzip
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from agcnn_jax.data.films import WrongSizeError, read_film
from agcnn_jax.data.pixels import MAX_BYTES, UnreadableImageError
from agcnn_jax.data_prep.nih.layout import is_image_name
from agcnn_jax.data_prep.nih.names import row_name
from agcnn_jax.data_prep.prepare.shards import (
    NO_ROW,
    UNREADABLE,
    WRONG_SIZE,
    Context,
    DecodedImage,
    Input,
    Problem,
)
from agcnn_jax.runtime.errors import UserError


def read_images(
    inputs: Sequence[Input], context: Context
) -> Iterator[tuple[str, str, DecodedImage | Problem]]:
    """Yield each image's location, its name in the table of labels, and its pixels."""
    for file, name, data in read_files(inputs, context.folder):
        image_id = row_name(name, context.rows)
        image = _decoded(data, context.image_size)
        known = image_id in context.rows
        if not known and not (isinstance(image, Problem) and image.reason == UNREADABLE):
            image = Problem(NO_ROW, "the label table has no row for it")
        yield file, image_id, image


def _decoded(data: bytes | str, image_size: int) -> DecodedImage | Problem:
    try:
        if isinstance(data, str):
            raise UnreadableImageError(data)
        pixels, side = read_film(data, image_size)
    except UnreadableImageError as error:
        return Problem(UNREADABLE, str(error))
    except WrongSizeError as error:
        return Problem(WRONG_SIZE, str(error))
    return DecodedImage(pixels, side, side)


def read_files(inputs: Sequence[Input], raw_dir: Path) -> Iterator[tuple[str, str, bytes | str]]:
    """Yield each image's location, its name, and its bytes or the reason why it cannot be read."""
    for item in inputs:
        path = raw_dir / item.path
        if item.kind == "archive":
            yield from _members(path, item.path)
            continue
        yield item.path, item.path.rsplit("/", 1)[-1], _content(path)


def _content(path: Path) -> bytes | str:
    """Return the file's bytes, or the reason why it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        return error.strerror or "cannot be read"


def _members(path: Path, name: str) -> Iterator[tuple[str, str, bytes | str]]:
    """Yield what `read_files` does for the images in an archive, without unpacking it to disk."""
    try:
        yield from (_of_zip if name.lower().endswith(".zip") else _of_tar)(path, name)
    except IsADirectoryError:
        raise UserError(f"{path} is a folder with an archive's name; rename or remove it") from None
    except (RuntimeError, NotImplementedError):  # a password, or a compression that is not known
        raise UserError(
            f"{path}: the zip archive has a password or a compression that Python cannot read; "
            "unpack it, and move it out of --raw_dir"
        ) from None
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, zlib.error):
        raise UserError(
            f"{path}: the archive is damaged or incomplete; download it again and rerun to continue"
        ) from None


def _of_zip(path: Path, name: str) -> Iterator[tuple[str, str, bytes | str]]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            # Some programs on Windows write backslashes.
            inside = member.filename.replace("\\", "/")
            if is_image_name(inside):
                with archive.open(member) as content:
                    data = content.read(MAX_BYTES + 1)
                yield f"{name}:{inside}", inside.rsplit("/", 1)[-1], data


def _of_tar(path: Path, name: str) -> Iterator[tuple[str, str, bytes | str]]:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        stream: IO[bytes] = gzip.GzipFile(fileobj=file) if packed else file  # type: ignore[assignment]
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            while (member := archive.next()) is not None:
                # tarfile keeps a list of all members; memory would grow with the archive.
                archive.members.clear()  # type: ignore[attr-defined]
                if not is_image_name(member.name):
                    continue
                content = archive.extractfile(member) if member.isreg() else None
                yield (
                    f"{name}:{member.name}",
                    member.name.rsplit("/", 1)[-1],
                    content.read(MAX_BYTES + 1) if content else "not a regular file",
                )
        # tarfile accepts the end of the file as the end of the archive, and gzip verifies its
        # checksum only at the end of the stream.
        if packed:
            while stream.read(1 << 20):
                pass
        else:
            file.seek(-512, os.SEEK_END)
            if file.read().strip(b"\0"):
                raise EOFError
