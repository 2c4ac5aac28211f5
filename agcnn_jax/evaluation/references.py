"""Published AUCs to compare with, each with its source."""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import json
import re
from typing import Any

PAPER_METHOD = "AG-CNN"
# The paper's Table I is on a random 70/10/20 split of images (its Section IV-A).
PAPER_PROTOCOL = "random"


@dataclasses.dataclass(frozen=True)
class PublishedRow:
    """One published row of AUCs.

    Attributes:
        method: who published it, such as "AG-CNN".
        backbone: as printed, such as "ResNet-50".
        branch: "global", "local", "fusion", or "classification" for single-branch methods.
        split: the data split it was measured on, in the source's words.
        source: where the numbers are printed.
        auc: AUC per finding, in [0, 1].
        mean_reported: the mean as printed; None where the source prints none.
    """

    method: str
    backbone: str
    branch: str
    split: str
    source: str
    auc: dict[str, float]
    mean_reported: float | None

    def mean(self, findings: tuple[str, ...]) -> float | None:
        """The mean over these findings, as printed if they are all; None if one is not in the row.

        A run that misses a finding has to be compared with the mean over the others.
        """
        if set(findings) == set(self.auc) and self.mean_reported is not None:
            return self.mean_reported
        if not findings or not set(findings) <= set(self.auc):
            return None
        return sum(self.auc[finding] for finding in findings) / len(findings)


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


@functools.cache
def load() -> dict[str, Any]:
    """The whole of `published.json`: Table I rows, Tables II and III, the control and tau."""
    text = importlib.resources.files(__package__).joinpath("published.json").read_text("utf-8")
    return json.loads(text)


@functools.cache
def published_rows() -> tuple[PublishedRow, ...]:
    """All published rows: the paper's Table I, then public PyTorch implementations."""
    return tuple(PublishedRow(**row) for row in load()["published"])


def published_row(backbone: str, branch: str) -> PublishedRow | None:
    """The row of Guan et al. 2018, Table I, for AG-CNN; None if the paper has none.

    Args:
        backbone: in any spelling: "resnet50", "ResNet-50", "densenet121".
        branch: "global", "local" or "fusion".
    """
    for row in published_rows():
        wanted = (PAPER_METHOD, _key(backbone), branch)
        if (row.method, _key(row.backbone), row.branch) == wanted:
            return row
    return None
