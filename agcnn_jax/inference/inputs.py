"""The films that a command line names: files as they are, folders with all that lies in them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import fsspec

from agcnn_jax.data.dicom_header import HEAD_BYTES, is_dicom, is_directory
from agcnn_jax.inference.films import printable
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.paths import expand
from agcnn_jax.runtime.storage import REACHABLE, absolute, is_remote, reported

DICOM_EXTENSIONS = (".dcm", ".dicom")
EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", *DICOM_EXTENSIONS)
_DIRECTORY_OF_A_MEDIUM = "DICOMDIR"


class FilmList(NamedTuple):
    """The paths of the films, and the number of files in folders that are none."""

    films: list[str]
    others: int


def find_films(given: Sequence[str], out: str | os.PathLike[str]) -> FilmList:
    """List the films that a command line names, each once; see `iterate_films`."""
    films: dict[str, None] = {}
    others = 0
    for path, is_film in iterate_films(given, out):
        if is_film:
            films[path] = None
        else:
            others += 1
    return FilmList(list(films), others)


def iterate_films(given: Sequence[str], out: str | os.PathLike[str]) -> Iterator[tuple[str, bool]]:
    """Yield the files that a command line names and contains, and whether each is a film.

    A named file counts whatever it is. In a folder, and in the folders below, films are the files
    with one of `EXTENSIONS` and those that begin like a DICOM file, which often have no extension;
    hidden files and the directory of a medium (DICOMDIR) never are. Links are followed. A folder
    below that cannot be listed counts as a film, which the decoder then refuses. In a bucket, the
    extension alone says what a film is.

    Args:
        given: paths of files and folders, on a disk or in a bucket.
        out: a folder to leave out, since its pictures are results.

    Returns:
        The paths in the order given; in a folder first its files, by name, then its folders.

    Raises:
        UserError: a path does not exist, a named folder cannot be read or is `out`, or there is no
            film.
    """
    found = False
    for name in map(expand, given):
        for path, is_film in _bucket(name) if is_remote(name) else _disk(name, out):
            found = found or is_film
            yield path, is_film
    if not found:
        raise UserError(
            f"{', '.join(map(printable, given[:3]))}: no film in it; give PNG, JPEG, TIFF or DICOM "
            f"files, or a folder that holds some"
        )


def _disk(name: str, out: str | os.PathLike[str]) -> Iterator[tuple[str, bool]]:
    if not os.path.lexists(name):
        raise UserError(f"{printable(name)}: no such file or folder; check the path")
    if not os.path.isdir(name):
        yield name, True
        return
    if os.path.realpath(name) == os.path.realpath(out):
        raise UserError(f"--out {out} is also a folder of films; choose another --out")
    closed: list[str] = []
    yield from ((path, _is_film(path)) for path in _walk(name, os.path.realpath(out), closed))
    yield from ((path, True) for path in closed)


def _bucket(name: str) -> Iterator[tuple[str, bool]]:
    place = absolute(name)
    with reported(place, "read", REACHABLE):
        store, root = fsspec.core.url_to_fs(os.fspath(place))
        if not store.isdir(root):
            if not store.exists(root):
                raise UserError(f"{name}: no such object or folder; check the address")
            yield name, True
            return
        scheme = name.partition("://")[0]
        for path in _objects(store, root):
            file = os.path.basename(path)
            is_film = not file.startswith(".") and file.lower().endswith(EXTENSIONS)
            yield f"{scheme}://{path}", is_film


def _objects(store: Any, folder: str) -> Iterator[str]:
    """Yield what lies in a folder and below; `walk` of fsspec hides a listing that fails."""
    entries = sorted(
        (one["name"].rstrip("/"), one["type"]) for one in store.ls(folder, detail=True)
    )
    entries = [one for one in entries if one[0] != folder]
    yield from (path for path, kind in entries if kind != "directory")
    for path, kind in entries:
        if kind == "directory":
            yield from _objects(store, path)


def _walk(top: str, left_out: str, closed: list[str]) -> Iterator[str]:
    def refuse(error: OSError) -> None:
        if error.filename != top:  # one folder of many does not end the run
            closed.append(error.filename)
            return
        raise UserError(
            f"{printable(error.filename)}: {error.strerror}; check the folder's permissions"
        )

    visited = {left_out}
    for folder, subfolders, files in os.walk(top, onerror=refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:  # a link to a folder above would never end
            subfolders.clear()
            continue
        visited.add(real)
        subfolders.sort()
        yield from (os.path.join(folder, name) for name in sorted(files))


def _is_film(path: str) -> bool:
    name = os.path.basename(path)
    if name.startswith(".") or name.upper() == _DIRECTORY_OF_A_MEDIUM:
        return False
    named = name.lower().endswith(EXTENSIONS)
    if named and not name.lower().endswith(DICOM_EXTENSIONS):
        return True
    try:
        if not os.path.isfile(path):  # opening a named pipe would block
            return named
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return named
    return not is_directory(head) and (named or is_dicom(head))
