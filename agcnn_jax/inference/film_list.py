"""A file that names a film on each line: written once, then read in pieces as a stream."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any, NamedTuple

from etils import epath

from agcnn_jax.inference.films import printable
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.storage import open_to_read, replacing

CHUNK = 1 << 20
"""Bytes that are read at a time."""


class ListedFilms(NamedTuple):
    """A list, after one reading.

    Attributes:
        path: of the file.
        lines: their number.
        size: bytes, with the end of the last line if the file lacks it.
        sha256: of these bytes.
        prefixes: the same of the first so many bytes, for the sizes that were asked for; None where
            no line ends there.
        places: number and offset of a line's start, about one for each `CHUNK`.
    """

    path: epath.Path
    lines: int
    size: int
    sha256: str
    prefixes: dict[int, str | None]
    places: list[tuple[int, int]]


def write_list(films: Iterable[str], path: epath.Path) -> int:
    """Write the paths of films, one a line as `printable` shows them; return their number.

    Raises:
        UserError: the file exists, or cannot be written.
    """
    count = 0
    with replacing(path) as file:
        for film in films:
            file.write(printable(film).encode() + b"\n")
            count += 1
    return count


def read_list(path: epath.Path, sizes: Sequence[int] = ()) -> ListedFilms:
    """Count the lines of a list and hash it, in constant memory.

    Args:
        path: of the list, on a disk or in a bucket.
        sizes: of what the list may begin with, in bytes, see `ListedFilms.prefixes`.

    Raises:
        UserError: it cannot be read, is empty, or has an empty line.
    """
    digest, lines, size, last = hashlib.sha256(), 0, 0, b"\n"
    prefixes: dict[int, str | None] = dict.fromkeys(sizes)
    places = [(0, 0)]
    with open_to_read(path) as file:
        while chunk := _next_chunk(file, last):
            if last == b"\n" and chunk[:1] == b"\n":
                raise UserError(f"{path}, line {lines + 1}: empty; name a film on each line")
            if (empty := chunk.find(b"\n\n")) >= 0:
                line = lines + chunk.count(b"\n", 0, empty + 1) + 1
                raise UserError(f"{path}, line {line}: empty; name a film on each line")
            done = 0
            for wanted in sorted(x - size for x in sizes if size < x <= size + len(chunk)):
                digest.update(chunk[done:wanted])
                done = wanted
                if chunk[wanted - 1 : wanted] == b"\n":
                    prefixes[size + wanted] = digest.hexdigest()
            digest.update(chunk[done:])
            lines += chunk.count(b"\n")
            if (end := chunk.rfind(b"\n") + 1) > 0:
                places.append((lines, size + end))
            size, last = size + len(chunk), chunk[-1:]
    if not lines:
        raise UserError(f"{path} names no film; write it with --write_list")
    return ListedFilms(path, lines, size, digest.hexdigest(), prefixes, places)


def _next_chunk(file: IO[bytes], last: bytes) -> bytes:
    """Read on; the end of the file ends its last line too."""
    return file.read(CHUNK) or (b"" if last == b"\n" else b"\n")


def names_of(films: ListedFilms, first: int, end: int) -> Iterator[tuple[int, str]]:
    """Yield the numbers and the names of the lines `first` to `end - 1`, counted from 0.

    Raises:
        UserError: the list cannot be read, is shorter than it was, or a backslash in a name begins
            no escape.
    """
    if first >= end:
        return
    start, offset = max(place for place in films.places if place[0] <= first)
    number = start - 1
    with open_to_read(films.path) as file:
        file.seek(offset)
        for number, line in enumerate(_lines(file), start):
            if number >= end:
                return
            if number >= first:
                yield number, _name(line, films.path, number)
    if number < end - 1:
        raise UserError(f"{films.path} became shorter while it was read; give the whole list")


def _lines(file: Any) -> Iterator[bytes]:
    """Yield lines; those of buckets come in blocks and have no fast way to end at a line."""
    rest = b""
    while chunk := file.read(CHUNK):
        lines = (rest + chunk).split(b"\n")
        rest = lines.pop()
        yield from lines
    if rest:
        yield rest


def _name(line: bytes, path: epath.Path, number: int) -> str:
    """Invert `printable`; a line that another program wrote may hold any other bytes."""
    line = line.removesuffix(b"\r")
    if b"\\" not in line:
        return os.fsdecode(line)
    try:
        text = line.decode().encode("latin-1", "backslashreplace").decode("unicode_escape")
        os.fsencode(text)
        return text
    except UnicodeError:
        raise UserError(
            f"{path}, line {number + 1}: a backslash begins no escape such as \\n; write it as \\\\"
        ) from None
