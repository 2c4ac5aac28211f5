"""What all pieces of a prediction share: the list, the model, the settings, who takes which lines.

The folder `plans` of --out has an object for each list, since a list may grow at its end: the first
plan has the lines of the first list, and each later one those that came after the lines before.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from agcnn_jax.inference.film_list import ListedFilms, read_list
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.storage import exists, read_json, reported, write_bytes

PLANS = "plans"
REMEDY = "choose another --out"


@dataclasses.dataclass(frozen=True)
class Plan:
    """The lines `first` to `end - 1` of a list, predicted in pieces.

    Attributes:
        first: 0, or where the list ended before it grew.
        end: the number of lines of the list.
        size: of the list in bytes.
        sha256: of the list.
        after: digest of the plan before, None for the first.
        identity: the model and the settings, names and values; with `--batch_size` and `--shards`.
        columns: of predictions.csv.
    """

    first: int
    end: int
    size: int
    sha256: str
    after: str | None
    identity: dict[str, Any]
    columns: list[str]

    @property
    def digest(self) -> str:
        """Hash of all of it, 16 hex digits."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def shards(self) -> int:
        """Number of pieces."""
        return int(self.identity["--shards"])

    def lines(self, shard: int) -> tuple[int, int]:
        """Return the first line of a piece and the one after its last.

        Pieces are contiguous and differ by one batch at most; there may be fewer batches than
        pieces.
        """
        batch = int(self.identity["--batch_size"])
        batches = -(-(self.end - self.first) // batch)
        first, end = (
            min(self.first + batches * one // self.shards * batch, self.end)
            for one in (shard, shard + 1)
        )
        return first, end


def read_plans(out: epath.Path) -> list[Plan]:
    """Read the plans of a folder, in their order.

    Raises:
        UserError: one is damaged, or they are of several models, settings or lists.
    """
    folder, plans = out / PLANS, []
    if exists(folder):
        with reported(folder, "read"):
            paths = sorted(path for path in folder.iterdir() if path.name.endswith(".json"))
        for path in paths:
            entry = read_json(path, REMEDY)
            try:
                plans.append(Plan(**entry))
                plans[-1].lines(0)
            except (ArithmeticError, KeyError, TypeError, ValueError):
                raise UserError(f"{path} is damaged; {REMEDY}") from None
    plans.sort(key=lambda plan: plan.end)
    before: Plan | None = None
    for plan in plans:
        check_same(out, plans[0].identity, plan.identity)
        if (plan.after, plan.first) != (before and before.digest, before.end if before else 0):
            raise UserError(
                f"--out {out} holds pieces of several lists, since the list was changed while "
                f"pieces of it started; {REMEDY}"
            )
        before = plan
    return plans


def join_plans(
    out: epath.Path, path: epath.Path, identity: dict[str, Any], columns: Sequence[str]
) -> tuple[list[Plan], ListedFilms]:
    """Return the plans of a list, whose lines follow each other, and the list.

    The first piece that starts writes the plan. Others may write it at the same time, since it is
    the same.

    Raises:
        UserError: the folder holds pieces of another list, model or settings, or the list cannot be
            read.
    """
    plans = read_plans(out)
    for plan in plans:
        check_same(out, plan.identity, identity)
    films = read_list(path, [plan.size for plan in plans])
    for plan in plans:
        if films.prefixes[plan.size] != plan.sha256:
            raise UserError(
                f"{path} does not begin with the {plan.end:,} lines of which --out {out} holds "
                f"pieces; a list may only grow at its end: restore it, or {REMEDY}"
            )
    first = plans[-1].end if plans else 0
    if films.lines > first:
        plan = Plan(
            first=first,
            end=films.lines,
            size=films.size,
            sha256=films.sha256,
            after=plans[-1].digest if plans else None,
            identity=identity,
            columns=list(columns),
        )
        place = out / PLANS / f"{plan.digest}.json"
        content = json.dumps(dataclasses.asdict(plan), indent=2) + "\n"
        with reported(place, "written"):
            write_bytes(place, content.encode(), unique=True)
        plans.append(plan)
    return plans, films


def check_same(out: epath.Path, there: Any, ours: dict[str, Any]) -> None:
    """Raise `UserError` for pieces with another model or other settings."""
    if differing := difference(there, ours):
        raise UserError(f"--out {out} holds pieces with {differing}; {REMEDY}")


def difference(there: Any, ours: Mapping[str, Any]) -> str | None:
    """Say in what a folder's model and settings differ from these, as in `--rule a, not b`."""
    entries = there if isinstance(there, dict) else {}
    for name in entries | dict(ours):
        if entries.get(name) != ours.get(name):
            # No engine computes the models of JAX.
            found, wanted = (one.get(name, "left out") for one in (entries, ours))
            return f"{name} {found}, not {wanted}"
    return None
