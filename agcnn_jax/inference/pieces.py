"""Predicting one of many pieces of a list of films, on any machine, and joining them all."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

from etils import epath

from agcnn_jax.inference.attempts import (
    AT_ONCE,
    Attempt,
    AttemptWriter,
    Part,
    complete_attempts,
    parts_left,
    piece_folder,
    read_part,
)
from agcnn_jax.inference.film_list import ListedFilms, names_of
from agcnn_jax.inference.folder import ERROR_COLUMNS, FILES, PROGRESS, csv_line
from agcnn_jax.inference.model import Model
from agcnn_jax.inference.plans import REMEDY, Plan, check_same, join_plans, read_plans
from agcnn_jax.inference.stream import (
    Placed,
    Settings,
    Summary,
    columns_of,
    identity_of,
    write_predictions,
)
from agcnn_jax.runtime.ahead import ahead
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.progress import Progress
from agcnn_jax.runtime.storage import exists, replacing

_NAMED = 10
"""Missing pieces that a message names."""


class Shard(NamedTuple):
    """One of the pieces: `number` from 0 to `total - 1`."""

    number: int
    total: int


def predict_piece(
    model: Model,
    films: epath.Path,
    out: epath.Path,
    settings: Settings,
    shard: Shard,
    retry_errors: bool,
) -> Summary:
    """Predict a piece of a list, and its share of what the list has grown by, unless that is done.

    A film's row in its batch depends on its line alone, so that the bytes of its result depend
    neither on the pieces, nor on the films that were refused, nor on how often it was tried.

    Args:
        model: predicts.
        films: the list, see `film_list`.
        out: a folder that all pieces share, on a disk or in a bucket.
        settings: the same for all pieces, but for the workers.
        shard: which piece.
        retry_errors: predict again what was refused.

    Raises:
        UserError: the folder holds pieces of another list, model or settings; the list cannot be
            read; or the folder cannot be written.
    """
    began = time.monotonic()
    if exists(out / PROGRESS):
        raise UserError(f"--out {out} holds predictions made without --list; {REMEDY}")
    identity = {
        **identity_of(model, settings),
        "--batch_size": settings.batch_size,
        "--shards": shard.total,
    }
    plans, listed = join_plans(out, films, identity, columns_of(model))
    attempts: list[Attempt] = []
    new, rate, limit = 0, None, None
    for plan in plans:
        first, end = plan.lines(shard.number)
        if first == end:
            continue
        attempt, writer = _begin(out, plan, (first, end), retry_errors)
        if writer is not None:
            bar = Progress("prediction", writer.count, "films")
            if writer.count:
                placed = _placed(listed, writer, end, settings.batch_size)
                size, used = (
                    settings.batch_size,
                    settings._replace(workers=min(settings.workers, writer.count)),
                )
                limit = write_predictions(model, placed, size, used, writer, bar)
            attempt, new, rate = writer.publish(), new + writer.count, bar.rate()
        if attempt is not None:
            attempts.append(attempt)
    return Summary(
        films=sum(part.end - part.first for attempt in attempts for part in attempt.parts),
        refused=sum(attempt.refused for attempt in attempts),
        unlike=sum(attempt.unlike for attempt in attempts),
        new=new,
        seconds=time.monotonic() - began,
        rate=rate,
        limit=limit if rate else None,  # a single batch says nothing
    )


def _begin(
    out: epath.Path, plan: Plan, lines: tuple[int, int], retry_errors: bool
) -> tuple[Attempt | None, AttemptWriter | None]:
    """Return the complete attempt that counts, and the attempt that is to be made, if any."""
    piece = piece_folder(out, lines)
    complete = [one for one in complete_attempts(piece) if one.plan == plan.digest]
    if not complete:
        known = parts_left(piece, plan.digest)
        return None, AttemptWriter(out, plan, lines, known, 0, retry_errors)
    best = complete[0]
    if not (retry_errors and best.refused):
        return best, None
    known = {part.number: part for part in best.parts}
    return best, AttemptWriter(out, plan, lines, known, best.retry + 1, again=True)


def _placed(listed: ListedFilms, writer: AttemptWriter, end: int, size: int) -> Iterator[Placed]:
    """Yield the films of the writer's lines."""
    wanted = writer.lines()
    line = next(wanted, end)
    for number, name in names_of(listed, line, end):
        if number == line:
            yield line % size, name
            if (line := next(wanted, end)) == end:
                return


class Joined(NamedTuple):
    """How many films the joined tables have, and how many of all were refused."""

    films: int
    refused: int
    unlike: int


def join(out: epath.Path) -> Joined:
    """Write the tables of all pieces, as one machine would have written them.

    Raises:
        UserError: a piece is missing or damaged, or is of another list, model or settings.
    """
    plans = read_plans(out)
    if not plans:
        raise UserError(f"{out} holds no pieces; give the --out of predictions with --list")
    parts: list[tuple[epath.Path, Part]] = []
    missing = set()
    pieces = [
        (plan, shard, piece_folder(out, lines))
        for plan in plans
        for shard in range(plan.shards)
        for lines in [plan.lines(shard)]
        if lines[0] < lines[1]
    ]
    found = ahead(lambda one: complete_attempts(one[2]), pieces, AT_ONCE)
    for (plan, shard, piece), attempts in zip(pieces, found, strict=True):
        for attempt in attempts:
            if attempt.plan == plan.digest:
                parts += [(piece, part) for part in attempt.parts]
                break
            check_same(out, attempt.identity, plan.identity)
            raise UserError(f"{piece} is a piece of another list; delete it and predict it again")
        else:
            missing.add(shard)
    if missing:
        numbers = sorted(missing)
        named = ", ".join(map(str, numbers[:_NAMED])) + (", ..." if len(numbers) > _NAMED else "")
        raise UserError(
            f"{len(missing)} of {plans[0].shards} pieces of {out} are not complete: --shard "
            f"{named}; predict them first"
        )
    headers = (csv_line(plans[0].columns), b"", csv_line(ERROR_COLUMNS))
    for file, header in zip(FILES, headers, strict=True):
        with replacing(out / file) as table:
            table.write(header)
            for content in ahead(lambda one: read_part(*one, file), parts, AT_ONCE):  # noqa: B023
                table.write(content)
    return Joined(
        films=sum(part.end - part.first for _, part in parts),
        refused=sum(len(part.refused) for _, part in parts),
        unlike=sum(part.unlike for _, part in parts),
    )
