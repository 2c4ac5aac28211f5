"""Options of a table of labels (stand-in)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class TableOptions:
    """What the user says about a table; all is optional."""

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
