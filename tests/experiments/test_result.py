import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from agcnn_jax.experiments.result import DIFFERENCE, Result, _estimates, _scores, _thirds
from agcnn_jax.metrics.auc_table import auc_table, paired_difference
from agcnn_jax.metrics.influence import contributions
from agcnn_jax.metrics.seeds import over_seeds
from tests.evaluation.cases import draw


@pytest.fixture(scope="module")
def scored():
    return draw(branches=("global", "local", "fusion"))


@pytest.fixture(scope="module")
def areas(scored):
    """Boxes of Mass alone, on all its images but one."""
    positive = scored.label_matrix[:, 0] == 1
    areas = np.where(positive, np.random.default_rng(0).uniform(10, 99, 240), np.nan)
    areas[np.flatnonzero(positive)[3]] = np.nan
    return {"Mass": areas}


@pytest.fixture(scope="module")
def result(scored, areas):
    test = {**_scores(scored), **_estimates(scored, areas)}
    return Result({}, {"test": test, "validation": _scores(draw(2))})


def test_aucs_are_scikit_learn_s(scored, result):
    for branch, logits in scored.logits.items():
        values = [roc_auc_score(scored.label_matrix[:, c], logits[:, c]) for c in (0, 1)]
        assert result.auc(branch, "Mass") == pytest.approx(values[0])
        assert result.auc(branch, "Hernia") is None
        assert result.mean(branch) == pytest.approx(np.mean(values))
        assert result.estimate(branch).value == pytest.approx(np.mean(values))
    assert result.branches == ("global", "local", "fusion")


def test_contributions_survive_the_file(scored, result):
    """To the 11 bits of a float16."""
    table = auc_table(
        scored.label_matrix,
        scored.logits,
        labels=scored.labels,
        findings=scored.findings,
        patient_ids=scored.patient_ids,
        resamples=0,
    )
    expected = contributions(table["local"].mean.influence)
    np.testing.assert_allclose(
        result.estimate("local").contributions, expected, rtol=2e-3, atol=1e-8
    )
    difference = result.estimate("fusion").minus(result.estimate("global"))
    paired = paired_difference(table["fusion"].mean, table["global"].mean)
    assert over_seeds([difference]).interval == pytest.approx(paired[1], abs=2e-3)


def test_differences_by_finding(scored, result):
    estimate = result.estimate(f"{DIFFERENCE} Mass")
    expected = result.auc("fusion", "Mass") - result.auc("global", "Mass")
    assert estimate.value == pytest.approx(expected)
    assert result.estimate(f"{DIFFERENCE} Hernia") is None
    assert result.estimate("nothing") is None


def test_lesions_of_a_size_against_images_without_the_finding(scored, areas, result):
    labels, logits = scored.label_matrix[:, 0], scored.logits["global"][:, 0]
    known = np.flatnonzero(~np.isnan(areas["Mass"]))
    largest = known[np.argsort(areas["Mass"][known])][-(len(known) // 3) :]
    kept = np.union1d(np.flatnonzero(labels == 0), largest)
    expected = roc_auc_score(labels[kept], logits[kept])
    assert result.estimate("global large").value == pytest.approx(expected)


def test_thirds_have_all_boxes_once(areas):
    thirds = _thirds(areas["Mass"])
    together = np.sum(list(thirds.values()), axis=0)
    np.testing.assert_array_equal(together == 1, ~np.isnan(areas["Mass"]))
    small, medium, large = (areas["Mass"][mask] for mask in thirds.values())
    assert small.max() <= medium.min() and medium.max() <= large.min()


def test_too_few_boxes_have_no_thirds():
    areas = np.full(100, np.nan)
    areas[:29] = 1.0
    assert _thirds(areas) == {} and _thirds(None) == {}
