"""Options of a table of labels: what its user says about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from agcnn_jax.runtime.errors import UserError

UNCERTAIN_AS = ("ignore", "zeros", "ones")
BLANK_AS = ("missing", "negative")
VIEWS = ("frontal", "all")


@dataclasses.dataclass(frozen=True)
class TableOptions:
    """What the user says about a table; all is optional.

    Attributes:
        columns: role -> header of its column, "" for none; see `roles.ROLES`. Other roles
            are found by their usual headers.
        findings: only these; () takes all that are found.
        positive: words of cells that mean 1, besides the usual ones; capitals do not matter.
        negative: words that mean 0.
        uncertain: words that mean -1.
        uncertain_as: finding, or "" for all others -> one of `UNCERTAIN_AS`, by default ignore.
        blank: one of `BLANK_AS`: what a blank cell means; `No Finding` is negative there.
        separator: of a cell's names; None finds it.
        one_patient_per_film: there is no column of patients, and each film is a patient.
        views: one of `VIEWS`: keep only frontal films, where a column says so, or all.
        nih: the table is of ChestX-ray14, whose patients are numbers.
    """

    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    findings: tuple[str, ...] = ()
    positive: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()
    uncertain: tuple[str, ...] = ()
    uncertain_as: Mapping[str, str] = dataclasses.field(default_factory=dict)
    blank: str = "missing"
    separator: str | None = None
    one_patient_per_film: bool = False
    views: str = "frontal"
    nih: bool = False


def check_options(options: TableOptions) -> None:
    """Raise `UserError` for a policy that there is not, and a word with two meanings."""
    policies: list[tuple[str, str, tuple[str, ...]]] = [
        ("blank", options.blank, BLANK_AS),
        ("views", options.views, VIEWS),
    ]
    policies += [("uncertain", policy, UNCERTAIN_AS) for policy in options.uncertain_as.values()]
    for option, value, possible in policies:
        if value not in possible:
            raise UserError(f"--{option}: {value!r} is none of {', '.join(possible)}; give one")
    meaning: dict[str, str] = {}
    for option in ("positive", "negative", "uncertain"):
        for word in getattr(options, option):
            if meaning.setdefault(word.strip().casefold(), option) != option:
                other = meaning[word.strip().casefold()]
                raise UserError(f"--{other} and --{option} both name {word!r}; name it once")
