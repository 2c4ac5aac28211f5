"""Published AUCs to compare with, each with its source."""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import json
import re
from collections.abc import Sequence
from typing import Any

PAPER_METHOD = "AG-CNN"
# The paper's numbers are of a random 70/10/20 split of images (its Section IV-A).
PAPER_PROTOCOL, PAPER_SPLIT = "random", "test"


@dataclasses.dataclass(frozen=True)
class PublishedRow:
    """One published row of AUCs.

    Attributes:
        method: who published it, such as "AG-CNN".
        backbone: as printed, such as "ResNet-50".
        branch: "global", "local", "fusion", or "classification" for single-branch methods.
        split: the data split it was measured on, in the source's words.
        source: where the numbers are printed.
        auc: AUC per finding, in [0, 1]; empty where only the mean is printed.
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
        printed = set(self.auc) or set(load()["findings"])
        if set(findings) == printed and self.mean_reported is not None:
            return self.mean_reported
        if not findings or not set(findings) <= set(self.auc):
            return None
        return sum(self.auc[finding] for finding in findings) / len(findings)


@dataclasses.dataclass(frozen=True)
class Setting:
    """How a run was trained, as far as that tells the paper's runs of one backbone apart.

    Attributes:
        strategy: as in Table II, such as "G_L_F".
        statistic: of the heat map, as in Table III: "max", "l1" or "l2".
        tau: the threshold, above 0 and below 1.
        local_input: "crop", or "image" for the control experiment of Section IV-C.
    """

    strategy: str
    statistic: str
    tau: float
    local_input: str


# That of Table I.
PAPER_SETTING = Setting("G_L_F", "max", 0.7, "crop")


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


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What the paper reports for a run's setting.

    Attributes:
        rows: per branch, its row; empty where the paper has no such run.
        place: where in the paper, such as "Table I"; "" without rows.
        why_not: why there are no rows; "" with rows.
    """

    rows: dict[str, PublishedRow]
    place: str
    why_not: str


def compare(
    backbone: str,
    setting: Setting | None,
    split: str | None,
    protocol: str | None,
    branches: Sequence[str],
) -> Comparison:
    """Find the paper's rows for a run, if the paper has one of the same setting.

    Args:
        backbone: in any spelling.
        setting: None when not known.
        split: the subset that was scored.
        protocol: the split protocol.
        branches: those that were scored.
    """
    why_not = ""
    if split != PAPER_SPLIT:
        why_not = f"its numbers are of a test split, these of the {split} split"
    elif protocol != PAPER_PROTOCOL:
        why_not = f"it splits images at random, the {protocol} protocol does not"
    elif published_row(backbone, "global") is None:
        why_not = f"it has no {backbone}"
    elif setting is None:
        why_not = "how these weights were trained is not known"
    if why_not or setting is None:
        return Comparison({}, "", why_not)
    place, found = _of_setting(backbone, setting)
    rows = {branch: found[branch] for branch in branches if branch in found}
    if not rows:
        local = ", the whole image as local input" if setting.local_input == "image" else ""
        why_not = (
            f"it has no run of {backbone} with strategy {setting.strategy}, statistic "
            f"{setting.statistic}, tau {setting.tau:g}{local}"
        )
    return Comparison(rows, place if rows else "", why_not)


def _of_setting(backbone: str, setting: Setting) -> tuple[str, dict[str, PublishedRow]]:
    """The place and the rows, by branch, of the paper's run of this setting; "" and {} if none."""
    if setting == PAPER_SETTING:
        rows = {branch: published_row(backbone, branch) for branch in ("global", "local", "fusion")}
        return "Table I", {branch: row for branch, row in rows.items() if row is not None}
    # All but Table I was measured with ResNet-50.
    if _key(backbone) != "resnet50":
        return "", {}
    if setting.local_input == "image":
        # Nothing is cropped there, so that statistic and tau do not matter.
        if setting.strategy != "GLF":
            return "", {}
        return _means("Section IV-C", "control_same_image_in_both_branches", {})
    if setting == dataclasses.replace(PAPER_SETTING, strategy=setting.strategy):
        wanted = {"strategy": setting.strategy}
        return _means("Table II", "table_2_training_strategies", wanted)
    if setting == dataclasses.replace(PAPER_SETTING, statistic=setting.statistic):
        wanted = {"statistic": setting.statistic}
        return _means("Table III", "table_3_heat_map_statistics", wanted)
    return "", {}


def _means(place: str, name: str, wanted: dict[str, str]) -> tuple[str, dict[str, PublishedRow]]:
    """Rows of a table that prints only means; `wanted` picks its row."""
    table = load()[name]
    for row in table.get("rows", [table]):
        if wanted.items() <= row.items():
            return place, {
                branch: PublishedRow(
                    PAPER_METHOD, "ResNet-50", branch, "70/10/20", table["source"], {}, row[branch]
                )
                for branch in ("global", "local", "fusion")
            }
    return "", {}
