import pytest

from agcnn_jax.evaluation.references import load, published_row, published_rows


def test_row_of_table_one():
    row = published_row("densenet121", "fusion")
    assert row == published_row("DenseNet-121", "fusion")
    assert (row.auc["Hernia"], row.auc["Pneumonia"], row.mean_reported) == (0.921, 0.774, 0.871)
    assert "Table I" in row.source
    assert row.split == "70/10/20"


@pytest.mark.parametrize("backbone, branch", [("resnet_small", "global"), ("resnet50", "other")])
def test_no_row(backbone, branch):
    assert published_row(backbone, branch) is None


@pytest.mark.parametrize("row", published_rows(), ids=lambda row: f"{row.method} {row.branch}")
def test_means_are_those_of_the_findings(row):
    assert all(0.5 < value < 1 for value in row.auc.values())
    computed = sum(row.auc.values()) / len(row.auc)
    if row.mean_reported is not None:
        assert row.mean(tuple(row.auc)) == row.mean_reported
        # Wang et al. and Yao et al. report means a little off those of the rounded findings.
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
    strategies = {row["strategy"]: row for row in load()["table_2_training_strategies"]["rows"]}
    statistics = {row["statistic"]: row for row in load()["table_3_heat_map_statistics"]["rows"]}
    for branch in ("global", "local", "fusion"):
        mean = published_row("resnet50", branch).mean_reported
        assert strategies["G_L_F"][branch] == mean
        assert statistics["max"][branch] == pytest.approx(mean, abs=0.0005)
