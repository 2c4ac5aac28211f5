"""Attempts at a piece of a prediction: whole parts, then one object that publishes them.

A piece is a folder `pieces/FIRST-END` of --out, named by its lines. Each attempt has a name of its
own, so that none disturbs another, and no object is ever written to twice:

    ATTEMPT/00000.predictions.csv   rows of the first `PART_BATCHES` batches; so for all of `FILES`
    ATTEMPT/00000.json              the part's record, written after its rows
    ATTEMPT.json                    written last: the attempt is complete, with its parts

An attempt that follows one that was killed takes over the parts that were complete.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from agcnn_jax.inference.folder import FILES, PICTURE, answer_line, csv_line, refusal
from agcnn_jax.inference.plans import REMEDY, Plan
from agcnn_jax.runtime.ahead import ahead
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.storage import exists, read_json, reported, write_bytes

PIECES = "pieces"
PART_BATCHES = 64
"""Batches of a part: what a killed attempt loses at most."""

AT_ONCE = 16
"""Objects that are read at once."""


@dataclasses.dataclass(frozen=True)
class Part:
    """The rows of some lines.

    Attributes:
        attempt: that wrote them.
        number: of the part in its piece.
        first: its first line.
        end: the line after its last.
        refused: the lines whose films could not be read.
        unlike: number of films that are unlike the training films.
        sha256: of each of `FILES`.
    """

    attempt: str
    number: int
    first: int
    end: int
    refused: list[int]
    unlike: int
    sha256: dict[str, str]

    def path(self, piece: epath.Path, file: str) -> epath.Path:
        """Return where one of `FILES` is."""
        return piece / self.attempt / f"{self.number:05d}.{file}"


@dataclasses.dataclass(frozen=True)
class Attempt:
    """A complete attempt.

    Attributes:
        plan: digest of the plan.
        identity: of the plan.
        retry: how often refused films had been predicted again.
        parts: all parts of the piece, which earlier attempts may have written.
    """

    name: str
    plan: str
    identity: dict[str, Any]
    retry: int
    parts: list[Part]

    @property
    def refused(self) -> int:
        """Number of films that could not be read."""
        return sum(len(part.refused) for part in self.parts)

    @property
    def unlike(self) -> int:
        """Number of films that are unlike the training films."""
        return sum(part.unlike for part in self.parts)


def piece_folder(out: epath.Path, lines: tuple[int, int]) -> epath.Path:
    """Return the folder of a piece."""
    return out / PIECES / f"{lines[0]:012d}-{lines[1]:012d}"


def complete_attempts(piece: epath.Path) -> list[Attempt]:
    """Read the attempts that are complete, of any plan; the one that counts comes first.

    Raises:
        UserError: one is damaged, or the folder cannot be read.
    """
    attempts = []
    for path in _listed(piece, ".json"):
        entry = read_json(path, REMEDY)
        try:
            attempts.append(Attempt(**entry | {"parts": [Part(**one) for one in entry["parts"]]}))
        except (KeyError, TypeError):
            raise UserError(f"{path} is damaged; {REMEDY}") from None
    return sorted(attempts, key=lambda one: (-one.retry, one.refused, one.name))


def parts_left(piece: epath.Path, plan: str) -> dict[int, Part]:
    """Return the parts that attempts of a plan wrote, complete or not."""
    records = [path for attempt in _listed(piece, f".{plan}") for path in _listed(attempt, ".json")]
    parts: dict[int, Part] = {}
    for part in ahead(_part, records, AT_ONCE):
        if part is not None:
            parts.setdefault(part.number, part)
    return parts


def _part(record: epath.Path) -> Part | None:
    with contextlib.suppress(UserError, TypeError):  # a damaged part is written again
        return Part(**read_json(record))
    return None


def _listed(folder: epath.Path, ending: str) -> list[epath.Path]:
    if not exists(folder):
        return []
    with reported(folder, "read"):
        return sorted(path for path in folder.iterdir() if path.name.endswith(ending))


class AttemptWriter:
    """Writes an attempt; takes the rows of the films that it still has to predict.

    Attributes:
        name: of the attempt. It ends with the digest of the plan.
    """

    def __init__(
        self,
        out: epath.Path,
        plan: Plan,
        lines: tuple[int, int],
        known: Mapping[int, Part],
        retry: int,
        again: bool,
    ):
        """Begin an attempt.

        Args:
            out: the folder of the predictions.
            plan: of the prediction.
            lines: of the piece.
            known: parts that are written already.
            retry: see `Attempt`.
            again: predict what known parts refused.
        """
        self.name = f"{uuid.uuid4().hex[:16]}.{plan.digest}"
        self._out, self._piece = out, piece_folder(out, lines)
        self._plan, self._retry = plan, retry
        step = PART_BATCHES * int(plan.identity["--batch_size"])
        firsts = range(lines[0], lines[1], step)
        self._spans = [(first, min(first + step, lines[1])) for first in firsts]
        # An earlier version may have cut other parts.
        self._known = {
            number: known[number]
            for number, span in enumerate(self._spans)
            if number in known and (known[number].first, known[number].end) == span
        }
        self._again, self._parts = again, dict(self._known)
        self._coming = self.lines()
        self._line = next(self._coming, None)
        self._rows: dict[int, tuple[bytes, bytes] | bytes] = {}
        self._unlike = 0

    def lines(self) -> Iterator[int]:
        """Yield the numbers of the lines to be predicted."""
        for number, span in enumerate(self._spans):
            part = self._known.get(number)
            if part is None:
                yield from range(*span)
            elif self._again:
                yield from part.refused

    @property
    def count(self) -> int:
        """Number of the lines to be predicted."""
        new = (span for number, span in enumerate(self._spans) if number not in self._known)
        refused = (len(part.refused) for part in self._known.values()) if self._again else ()
        return sum(end - first for first, end in new) + sum(refused)

    @property
    def next_number(self) -> int:
        """The number of the next film in the whole list, from 1."""
        assert self._line is not None
        return self._line + 1

    def add(self, film: str, row: Sequence[Any], answer: Mapping[str, Any], unlike: bool) -> None:
        """Take the rows of a film."""
        self._unlike += unlike
        self._take((csv_line(row), answer_line(answer)))

    def refuse(self, film: str, reason: str) -> None:
        """Take why a film cannot be read."""
        self._take(csv_line(refusal(film, reason)))

    def draw(self, name: str, figure: Any) -> None:
        """Write a film's picture; attempts that draw the same film write the same picture."""
        picture, path = io.BytesIO(), self._out / name
        figure.savefig(picture, format=path.suffix[1:], **PICTURE)
        with reported(path, "written"):
            write_bytes(path, picture.getvalue(), unique=True)

    def save_if_due(self) -> None:
        """Do nothing: a part is written when it is whole."""

    def _take(self, rows: tuple[bytes, bytes] | bytes) -> None:
        assert self._line is not None
        number = self._number(self._line)
        self._rows[self._line] = rows
        self._line = next(self._coming, None)
        if self._line is None or self._number(self._line) != number:
            self._write_part(number)

    def _number(self, line: int) -> int:
        return (line - self._spans[0][0]) // (self._spans[0][1] - self._spans[0][0])

    def _write_part(self, number: int) -> None:
        """Write a part: the rows that were taken, between those that an earlier attempt has."""
        known, span = self._known.get(number), self._spans[number]
        kept: Iterator[tuple[bytes, bytes]] = iter(())
        unlike = self._unlike
        if known is not None:
            texts = (read_part(self._piece, known, file) for file in FILES[:2])
            kept = zip(*(text.splitlines(keepends=True) for text in texts), strict=True)
            unlike += known.unlike
        content: dict[str, list[bytes]] = {file: [] for file in FILES}
        refused = []
        for line in range(*span):
            rows = self._rows[line] if line in self._rows else next(kept)
            if isinstance(rows, bytes):
                content[FILES[2]].append(rows)
                refused.append(line)
            else:
                for file, row in zip(FILES, rows, strict=False):
                    content[file].append(row)
        whole = {file: b"".join(rows) for file, rows in content.items()}
        sums = {file: hashlib.sha256(data).hexdigest() for file, data in whole.items()}
        part = Part(self.name, number, *span, refused, unlike, sums)
        for file, data in whole.items():
            self._write(part.path(self._piece, file), data)
        self._write_json(part.path(self._piece, "json"), dataclasses.asdict(part))
        self._parts[number] = part
        self._rows, self._unlike = {}, 0

    def publish(self) -> Attempt:
        """Make the attempt the result of its piece."""
        parts = [self._parts[number] for number in range(len(self._spans))]
        plan = self._plan
        attempt = Attempt(self.name, plan.digest, plan.identity, self._retry, parts)
        self._write_json(self._piece / f"{self.name}.json", dataclasses.asdict(attempt))
        return attempt

    def _write_json(self, path: epath.Path, value: Any) -> None:
        self._write(path, (json.dumps(value) + "\n").encode())

    def _write(self, path: epath.Path, content: bytes) -> None:
        with reported(path, "written"):
            write_bytes(path, content)


def read_part(piece: epath.Path, part: Part, file: str) -> bytes:
    """Read one of a part's `FILES`.

    Raises:
        UserError: it cannot be read, or was changed.
    """
    path = part.path(piece, file)
    with reported(path, "read"):
        content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != part.sha256[file]:
        raise UserError(
            f"{path} was changed or is damaged; delete the folder {piece} and predict this piece "
            f"again"
        )
    return content
