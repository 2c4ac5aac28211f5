import gzip

import numpy as np
import pytest

from agcnn_jax.data.splits import digest_of
from agcnn_jax.evaluation.scoring.references import (
    PAPER_SETTING,
    Setting,
    compare,
    load_published,
    published_on,
    published_row,
    published_rows,
)
from tests.support.shared import CHEST_XRAY14, needs_chest_xray14


def test_row_of_table_one():
    row = published_row("densenet121", "fusion")
    assert row == published_row("DenseNet-121", "fusion")
    assert (row.auc["Hernia"], row.auc["Pneumonia"], row.mean_reported) == (0.921, 0.774, 0.871)
    assert "Table I" in row.source
    assert row.split == "70/10/20"


@pytest.mark.parametrize("backbone, branch", [("resnet_small", "global"), ("resnet50", "other")])
def test_no_row(backbone, branch):
    assert published_row(backbone, branch) is None


WITH_FINDINGS = [row for row in published_rows() if row.auc]


@pytest.mark.parametrize("row", WITH_FINDINGS, ids=lambda row: f"{row.method} {row.branch}")
def test_means_are_those_of_the_findings(row):
    assert all(0.5 < value < 1 for value in row.auc.values())
    computed = sum(row.auc.values()) / len(row.auc)
    if row.mean_reported is not None:
        assert row.mean(tuple(row.auc)) == row.mean_reported
        # Means of Wang et al. and Yao et al. differ slightly from those of the rounded findings.
        assert computed == pytest.approx(row.mean_reported, abs=0.0011)
    else:
        assert row.mean(tuple(row.auc)) == pytest.approx(computed)


def test_mean_over_some_findings():
    row = published_row("resnet50", "global")
    assert row.mean(("Mass", "Nodule")) == pytest.approx((0.863 + 0.780) / 2)
    assert row.mean(("Mass", "Fracture")) is None
    assert row.mean(()) is None


def test_tables_agree_with_one_another():
    """The default strategy and statistic of Tables II and III are the ResNet-50 rows of Table I."""
    strategies = {
        row["strategy"]: row for row in load_published()["table_2_training_strategies"]["rows"]
    }
    statistics = {
        row["statistic"]: row for row in load_published()["table_3_heat_map_statistics"]["rows"]
    }
    for branch in ("global", "local", "fusion"):
        mean = published_row("resnet50", branch).mean_reported
        assert strategies["G_L_F"][branch] == mean
        assert statistics["max"][branch] == pytest.approx(mean, abs=0.0005)


FOURTEEN = tuple(load_published()["findings"])


@pytest.mark.parametrize(
    ("backbone", "setting", "place", "means"),
    [
        ("densenet121", PAPER_SETTING, "Table I", (0.840, 0.810, 0.871)),
        ("resnet50", PAPER_SETTING, "Table I", (0.841, 0.817, 0.868)),
        ("resnet50", Setting("GLF", "max", 0.7, "crop"), "Table II", (0.847, 0.815, 0.849)),
        ("resnet50", Setting("G_L_F*", "max", 0.7, "crop"), "Table II", (0.852, 0.819, 0.854)),
        ("resnet50", Setting("G_L_F", "l2", 0.7, "crop"), "Table III", (0.8412, 0.8213, 0.8672)),
        ("resnet50", Setting("GLF", "l1", 0.3, "image"), "Section IV-C", (0.845, 0.846, 0.851)),
    ],
)
def test_a_setting_is_compared_with_the_same(backbone, setting, place, means):
    branches = ("global", "local", "fusion")
    found = compare(backbone, setting, "test", "random", branches)
    assert (found.place, found.why_not) == (place, "")
    assert tuple(found.rows[branch].mean(FOURTEEN) for branch in branches) == means
    # A row that prints only the mean says nothing about a mean over fewer findings.
    some = found.rows["fusion"].mean(("Mass", "Nodule"))
    assert (some is None) == (place != "Table I")


DIGESTS = {known["split"]: known["digest"] for known in load_published()["test_lists"]}


@pytest.mark.parametrize(
    ("split", "protocol", "digest", "methods"),
    [
        ("test", "random", "any", {"Yao et al. 2017": 0.803, "Wang et al. 2017": 0.738}),
        ("validation", "random", "any", {}),
        ("test", "patient", "any", {}),
        ("test", "official", "part of it", {}),
        ("test", "lists", "others", {}),
        (None, None, None, {}),
    ],
)
def test_a_split_has_its_own_published_results_only(split, protocol, digest, methods):
    rows, caution = published_on(split, protocol, digest)
    assert {row.method: row.mean_reported for row in rows} == methods
    assert caution == ""


def test_results_on_the_official_list_come_with_their_caution():
    rows, caution = published_on(None, None, DIGESTS["official"])
    assert [(row.method, row.mean_reported) for row in rows][:2] == [
        ("EVA-X-B", 0.835),
        ("EVA-X-S", 0.833),
    ]
    for backbone in ("DenseNet-121", "ResNet-50"):
        means = [row.mean_reported for row in rows if row.backbone.startswith(backbone)]
        assert len(means) >= 2
        assert means == pytest.approx([0.81] * len(means), abs=0.004)
    assert "may be selected on the test set" in caution
    assert all("EVA-X" in row.source for row in rows)


def test_results_on_chexnets_lists_are_named_in_the_table():
    rows, _ = published_on("test", "lists", DIGESTS["CheXNet lists"])
    assert {row.split for row in rows} == {"CheXNet lists"}
    assert [row.mean_reported for row in rows if row.branch == "fusion"] == [0.841]


@needs_chest_xray14
@pytest.mark.parametrize(
    ("split", "file"), [("CheXNet lists", "chexnet"), ("official", "official")]
)
def test_digests_are_those_of_the_lists(split, file):
    with gzip.open(CHEST_XRAY14 / "lists" / f"{file}_test_list.txt.gz", "rt") as names:
        listed = np.array(sorted(names.read().split()))
    [known] = [known for known in load_published()["test_lists"] if known["split"] == split]
    assert (known["images"], known["digest"]) == (len(listed), digest_of(listed))
