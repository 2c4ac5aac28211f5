"""The names that collections give to findings, and which of them mean the same."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from agcnn_jax.data.text import plain

TABLE = Path(__file__).with_name("synonyms.csv")
RELATIONS = ("same", "part", "near", "never")


class Synonym(NamedTuple):
    """A row of `synonyms.csv`.

    Attributes:
        name: of a finding.
        means: of another finding; where `relation` is "same", the name that stands for both.
        relation: one of `RELATIONS`. "same": one finding. "part": every film with `name` has
            `means`, which is wider. "near": similar. "never": similar names of different findings.
        note: the reason, in words.
    """

    name: str
    means: str
    relation: str
    note: str


def read_synonyms() -> tuple[Synonym, ...]:
    """Read the package's table of names."""
    with TABLE.open(newline="", encoding="utf-8") as file:
        return tuple(Synonym(**row) for row in csv.DictReader(file))


def canonical(name: str, synonyms: Sequence[Synonym]) -> str:
    """Return the one name of what `name` means: the name itself where the table has no other."""
    return next(
        (
            one.means
            for one in synonyms
            if one.relation == "same" and plain(one.name) == plain(name)
        ),
        name,
    )


def relation(ours: str, theirs: str, synonyms: Sequence[Synonym]) -> str:
    """Say how one collection's finding relates to another's.

    Names are compared without capitals, spaces and underscores; each stands for all names that
    mean the same.

    Returns:
        One of `RELATIONS`, "part" only where ours is the part; "" if the table has neither the pair
        nor one name for both.
    """
    same = {plain(row.name): plain(row.means) for row in synonyms if row.relation == "same"}

    def meanings(*names: str) -> list[str]:
        return [same.get(plain(name), plain(name)) for name in names]

    pair = meanings(ours, theirs)
    for row in synonyms:
        if row.relation != "same":
            known = meanings(row.name, row.means)
            if pair == known or (row.relation != "part" and pair == known[::-1]):
                return row.relation
    return "same" if pair[0] == pair[1] else ""
