"""The folder that predictions are written to, film by film, and continued in after a stop."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from agcnn_jax.data.text import csv_text
from agcnn_jax.inference.films import printable
from agcnn_jax.inference.plans import PLANS, REMEDY, difference
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.storage import is_remote, read_json, reported, write_json

PROGRESS = "progress.json"
FILES = ("predictions.csv", "predictions.jsonl", "errors.csv")
ERROR_COLUMNS = ("Image Index", "path", "reason")
PICTURE: dict[str, Any] = {"dpi": 110, "pil_kwargs": {"quality": 88}}
"""How figures are saved as pictures."""

OVERLAYS = "overlays"
"""Folder of the pictures, in that of the predictions."""

_SAVE_SECONDS = 1.0

_EXTENSION = re.compile(r"\.(png|jpe?g|tiff?|dcm|dicom)$", re.IGNORECASE)
_NAME_BYTES = 200
"""Bytes of a film's name that its picture's name keeps; file systems allow 255 in all."""


class PredictionFolder:
    """The rows of films, in their order, in `FILES`.

    `progress.json` names the model and the settings that made the rows, counts the films, and
    holds the length of each file at that moment. What a killed process wrote after that is cut off
    when the next one continues, so that it ends with the same bytes.

    Attributes:
        out: the folder.
        films: number of films whose rows are written.
        refused: of these, the films that could not be read.
        unlike: of these, the films that are unlike the training films.
    """

    def __init__(self, out: Path, identity: Mapping[str, Any]):
        """Describe the folder; `open_folder` opens it."""
        self.out, self.films, self.refused, self.unlike = out, 0, 0, 0
        self._identity = dict(identity)
        self._names = hashlib.sha256()
        self._files: list[Any] = []
        self._saved = time.monotonic()

    def open(self, columns: Sequence[str], films: Sequence[str]) -> None:
        """Create the files, or cut them to what is known to be complete."""
        path = epath.Path(self.out / PROGRESS)
        remedy = "choose another --out, or delete it"
        with reported(self.out, "written"):
            self.out.mkdir(parents=True, exist_ok=True)
            continues = path.exists()
            # A process that ended before its first save leaves empty files.
            files = [self.out / name for name in FILES]
            names = [file.name for file in files if file.exists() and file.stat().st_size]
        with reported(self.out, "read"):
            if (self.out / PLANS).exists():
                raise UserError(f"--out {self.out} holds pieces of a list; {REMEDY}")
        if names and not continues:
            raise UserError(f"--out {self.out} holds a {names[0]} of something else; {remedy}")
        sizes = self._continue(read_json(path, remedy), films, remedy) if continues else [0, 0, 0]
        with reported(self.out, "written"):
            for name, size in zip(FILES, sizes, strict=True):
                file = open(self.out / name, "ab")  # noqa: SIM115
                self._files.append(file)
                self._lock(file)
                if os.fstat(file.fileno()).st_size < size:
                    raise UserError(f"{self.out / name} is shorter than it was; {remedy}")
                file.truncate(size)
            if not sizes[0]:  # new, or its process ended before the headers were complete
                self.save()
                self._files[0].write(csv_line(columns))
                self._files[2].write(csv_line(ERROR_COLUMNS))
        self.save()

    def _continue(
        self, saved: Mapping[str, Any], films: Sequence[str], remedy: str
    ) -> Sequence[int]:
        """Take over the counts of `progress.json`; return the sizes of the files."""
        self._check_same(saved.get("identity"))
        try:
            count, self.refused, self.unlike = (
                int(saved[name]) for name in ("films", "refused", "unlike")
            )
            sizes = [int(saved["bytes"][name]) for name in FILES]
            names = saved["names"]
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{self.out / PROGRESS} is damaged; {remedy}") from None
        for film in films[:count]:
            self._count(film)
        if self.films < count or self._names.hexdigest() != names:
            raise UserError(
                f"--out {self.out} holds the predictions of other films; name the same films in "
                f"the same order to continue, or choose another --out"
            )
        return sizes

    def _lock(self, file: Any) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"--out {self.out}: another process writes predictions there; wait until it ends"
            ) from None

    def _check_same(self, identity: Any) -> None:
        if differing := difference(identity, self._identity):
            raise UserError(
                f"--out {self.out} holds predictions with {differing}; choose another --out"
            )

    def add(self, film: str, row: Sequence[Any], answer: Mapping[str, Any], unlike: bool) -> None:
        """Write the row of a film for the CSV file, and its object for the other."""
        self._files[0].write(csv_line(row))
        self._files[1].write(answer_line(answer))
        self.unlike += unlike
        self._count(film)

    def refuse(self, film: str, reason: str) -> None:
        """Write why a film cannot be read."""
        self._files[2].write(csv_line(refusal(film, reason)))
        self.refused += 1
        self._count(film)

    @property
    def next_number(self) -> int:
        """The number of the next film, from 1."""
        return self.films + 1

    def draw(self, name: str, figure: Any) -> None:
        """Write a film's picture."""
        with reported(self.out, "written"):
            figure.savefig(self.out / name, **PICTURE)

    def _count(self, film: str) -> None:
        self._names.update(os.fsencode(film) + b"\0")
        self.films += 1

    def save_if_due(self) -> None:
        """Call `save` if the last time is long ago."""
        if time.monotonic() - self._saved > _SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Write down that all rows until now are complete."""
        with reported(self.out, "written"):
            for file in self._files:
                file.flush()
            sizes = [os.fstat(file.fileno()).st_size for file in self._files]
        progress = {
            "identity": self._identity,
            "films": self.films,
            "refused": self.refused,
            "unlike": self.unlike,
            "names": self._names.hexdigest(),
            "bytes": dict(zip(FILES, sizes, strict=True)),
        }
        write_json(epath.Path(self.out / PROGRESS), progress)
        self._saved = time.monotonic()

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            with contextlib.suppress(OSError):  # it was flushed, or an error is already on its way
                file.close()


@contextlib.contextmanager
def open_folder(
    out: Path, identity: Mapping[str, Any], columns: Sequence[str], films: Sequence[str]
) -> Iterator[PredictionFolder]:
    """Open the folder of the predictions of `films`, to begin or to continue.

    Args:
        out: on a disk; created if missing.
        identity: what the predictions depend on: names of options and their values, for JSON.
        columns: of predictions.csv.
        films: the paths of all films.

    Raises:
        UserError: it holds the predictions of another model, with other settings or of other
            films, another process writes there, or it cannot be written.
    """
    if is_remote(out):
        raise UserError(f"--out {out}: predictions are written to a disk; give a folder")
    folder = PredictionFolder(out, identity)
    try:
        folder.open(columns, films)
        with reported(out, "written"):
            yield folder
        folder.save()
    finally:
        folder.close()


def csv_line(cells: Sequence[Any]) -> bytes:
    """Return a row of a CSV file."""
    return csv_text(cells, []).encode()


def answer_line(answer: Mapping[str, Any]) -> bytes:
    """Return a line of predictions.jsonl."""
    return (json.dumps(answer, allow_nan=False) + "\n").encode()


def refusal(film: str, reason: str) -> tuple[str, str, str]:
    """Return a film's row of errors.csv."""
    shown = printable(film)
    return os.path.basename(shown), shown, reason


def overlay_name(path: str, number: int) -> str:
    """Name the picture of a film: the film's name, then the film's number, which no other has.

    Letters and digits of any script, dots, hyphens and underscores stay; each other character
    becomes an underscore. The column `overlay` of the predictions says which film it shows.
    """
    name = unicodedata.normalize("NFC", os.path.basename(printable(path)))
    stem = _EXTENSION.sub("", name)
    kept = "".join(c if c.isalnum() or c in "-_." else "_" for c in stem)
    # Hidden files, and names that commands take for options, begin with these.
    kept = re.sub(r"^[-.]", "_", kept)
    short = kept.encode()[:_NAME_BYTES].decode(errors="ignore")
    return f"{short}_{number:06d}.jpeg"
