"""Options of a table of labels: what its user says about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

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
