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
# The paper splits images 70/10/20 at random (its Section IV-A).
PAPER_PROTOCOL, PAPER_SPLIT, PAPER_FRACTIONS = "random", "test", "70/10/20"


@dataclasses.dataclass(frozen=True)
class PublishedRow:
    """One published row of AUCs.

    Attributes:
        method: who published it, such as "AG-CNN".
        backbone: as printed, such as "ResNet-50".
        branch: "global", "local", "fusion", or "classification" for single-branch methods.
        split: the data split it was measured on, in the source's words.
        source: where the numbers are printed.
        auc: AUC per finding, in [0, 1]; empty if only the mean is printed.
        mean_reported: the mean as printed; None if the source prints none.
    """

    method: str
    backbone: str
    branch: str
    split: str
    source: str
    auc: dict[str, float]
    mean_reported: float | None

    def mean(self, findings: tuple[str, ...]) -> float | None:
        """Return the mean over these findings, as printed if they are all of the row's.

        A run without an AUC for some finding must be compared with the mean over the others.

        Returns:
            The mean, or None without findings or if the row lacks one of them.
        """
        printed = set(self.auc) or set(load_published()["findings"])
        if set(findings) == printed and self.mean_reported is not None:
            return self.mean_reported
        if not findings or not set(findings) <= set(self.auc):
            return None
        return sum(self.auc[finding] for finding in findings) / len(findings)


@dataclasses.dataclass(frozen=True)
class Setting:
    """The settings of a run that distinguish the paper's runs of one backbone.

    Attributes:
        strategy: as in Table II, such as "G_L_F".
        statistic: of the heat map, as in Table III: "max", "l1" or "l2".
        tau: the threshold, above 0 and below 1.
        local_input: "crop", "image" for the control experiment of Section IV-C, or "centred".
        crop_from: "input", or "stored" for crops from the stored images.
    """

    strategy: str
    statistic: str
    tau: float
    local_input: str
    crop_from: str = "input"


PAPER_SETTING = Setting("G_L_F", "max", 0.7, "crop")
"""The setting of Table I."""

_LOCAL_INPUTS = {
    "crop": "",
    "image": ", the whole image as local input",
    "centred": ", a centred crop as local input",
}
"""What a run's local branch read, where it was not the attended region."""


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


@functools.cache
def load_published() -> dict[str, Any]:
    """Load `published.json`: the paper's tables, other methods' results, and known test lists."""
    text = importlib.resources.files(__package__).joinpath("published.json").read_text("utf-8")
    return json.loads(text)


@functools.cache
def published_rows() -> tuple[PublishedRow, ...]:
    """Return all published rows: the paper's Table I first, then other methods."""
    return tuple(PublishedRow(**row) for row in load_published()["published"])


def published_row(backbone: str, branch: str) -> PublishedRow | None:
    """Return AG-CNN's row of Table I in Guan et al. 2018; None if the paper has none.

    Args:
        backbone: in any spelling: "resnet50", "ResNet-50", "densenet121".
        branch: "global", "local" or "fusion".
    """
    for row in published_rows():
        wanted = (PAPER_METHOD, _key(backbone), branch)
        if (row.method, _key(row.backbone), row.branch) == wanted:
            return row
    return None


def published_on(
    split: str | None, protocol: str | None, digest: str | None
) -> tuple[list[PublishedRow], str]:
    """Find other methods' results on the split that was scored.

    Images that are split at random are as good as the paper's; lists must be the very lists.

    Args:
        split: the scored subset; None when not known.
        protocol: the split protocol; None when not known.
        digest: of the scored images, see `Split.digests`; None when not known.

    Returns:
        The rows, by falling mean, and a caution about them or "".
    """
    name, caution = None, ""
    for known in load_published()["test_lists"]:
        if digest == known["digest"]:
            name, caution = known["split"], known.get("caution", "")
    if name is None and (split, protocol) == (PAPER_SPLIT, PAPER_PROTOCOL):
        name = PAPER_FRACTIONS
    rows = [row for row in published_rows() if row.split == name and row.method != PAPER_METHOD]
    return sorted(
        rows, key=lambda row: -(row.mean(tuple(load_published()["findings"])) or 0)
    ), caution


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The paper's numbers for a run's setting.

    Attributes:
        rows: the row of each branch; empty if the paper has no such run.
        place: their place in the paper, such as "Table I"; "" without rows.
        why_not: the reason that there are no rows; "" with rows.
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
    """Find the paper's run of the same setting.

    Args:
        backbone: in any spelling.
        setting: None when not known.
        split: the scored subset.
        protocol: the split protocol.
        branches: the scored branches.
    """
    why_not = ""
    if split != PAPER_SPLIT:
        why_not = f"its numbers come from a test split, these from the {split} split"
    elif protocol != PAPER_PROTOCOL:
        why_not = f"it splits images at random, the {protocol} protocol does not"
    elif published_row(backbone, "global") is None:
        why_not = f"it has no {backbone}"
    elif setting is None:
        why_not = "it is not known how these weights were trained"
    if why_not or setting is None:
        return Comparison({}, "", why_not)
    place, found = paper_rows(backbone, setting)
    rows = {branch: found[branch] for branch in branches if branch in found}
    if not rows:
        local = _LOCAL_INPUTS[setting.local_input]
        if setting.crop_from == "stored" and setting.local_input != "image":
            local += ", crops from the stored images"
        why_not = (
            f"it has no run of {backbone} with strategy {setting.strategy}, statistic "
            f"{setting.statistic}, tau {setting.tau:g}{local}"
        )
    return Comparison(rows, place if rows else "", why_not)


def paper_rows(backbone: str, setting: Setting) -> tuple[str, dict[str, PublishedRow]]:
    """Return the place and the row per branch of the paper's run of this setting, or "" and {}."""
    if setting == PAPER_SETTING:
        rows = {branch: published_row(backbone, branch) for branch in ("global", "local", "fusion")}
        return "Table I", {branch: row for branch, row in rows.items() if row is not None}
    # Everything outside Table I was measured with ResNet-50.
    if _key(backbone) != "resnet50":
        return "", {}
    if setting.local_input == "image":
        # Nothing is cropped, so statistic and tau do not matter.
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
    """Return the row, selected by `wanted`, of a table that prints means alone."""
    table = load_published()[name]
    for row in table.get("rows", [table]):
        if wanted.items() <= row.items():
            return place, {
                branch: PublishedRow(
                    PAPER_METHOD, "ResNet-50", branch, "70/10/20", table["source"], {}, row[branch]
                )
                for branch in ("global", "local", "fusion")
            }
    return "", {}
