import dataclasses

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from agcnn_jax.data.labels import MISSING
from agcnn_jax.experiments.result import (
    DIFFERENCE,
    _estimates,
    _scores,
    _thirds,
    make_result,
)
from agcnn_jax.metrics.auc_table import auc_table, paired_difference
from agcnn_jax.metrics.influence import variance_of_mean
from agcnn_jax.metrics.seeds import over_seeds
from agcnn_jax.runtime.errors import UserError
from tests.evaluation.cases import draw
from tests.experiments.results import BRANCHES, content_of, made
from tests.support.missing import missing_labels


@pytest.fixture(scope="module")
def scored():
    return draw(branches=BRANCHES)


@pytest.fixture(scope="module")
def areas(scored):
    """Boxes of Mass alone, on all its images but one."""
    positive = scored.label_matrix[:, 0] == 1
    areas = np.where(positive, np.random.default_rng(0).uniform(10, 99, 240), np.nan)
    areas[np.flatnonzero(positive)[3]] = np.nan
    return {"Mass": areas}


@pytest.fixture(scope="module")
def result(scored, areas):
    return made({**_scores(scored), **_estimates(scored, areas)}, _scores(draw(2, BRANCHES)))


def test_aucs_are_scikit_learn_s(scored, result):
    for branch, logits in scored.logits.items():
        values = [roc_auc_score(scored.label_matrix[:, c], logits[:, c]) for c in (0, 1)]
        assert result.auc(branch, "Mass") == pytest.approx(values[0])
        assert result.auc(branch, "Hernia") is None
        assert result.mean(branch) == pytest.approx(np.mean(values))
        assert result.estimates[branch].value == pytest.approx(np.mean(values))
    assert result.branches == ("global", "local", "fusion")


def test_contributions_survive_the_file(scored, result):
    """To the 11 bits of a float16."""
    table = auc_table(
        scored.label_matrix,
        scored.logits,
        labels=scored.labels,
        findings=scored.findings,
        patient_ids=scored.patient_ids,
    )
    expected = variance_of_mean(table["local"].mean.influence).contributions
    np.testing.assert_allclose(
        result.estimates["local"].variance.contributions, expected, rtol=2e-3, atol=1e-8
    )
    difference = result.estimates["fusion"].minus(result.estimates["global"])
    paired = paired_difference(table["fusion"].mean, table["global"].mean)
    assert over_seeds([difference]).interval == pytest.approx(paired[1], abs=2e-3)


def test_differences_by_finding(scored, result):
    estimate = result.estimates[f"{DIFFERENCE} Mass"]
    expected = result.auc("fusion", "Mass") - result.auc("global", "Mass")
    assert estimate.value == pytest.approx(expected)
    assert f"{DIFFERENCE} Hernia" not in result.estimates


def test_lesions_of_a_size_against_images_without_the_finding(scored, areas, result):
    labels, logits = scored.label_matrix[:, 0], scored.logits["global"][:, 0]
    known = np.flatnonzero(~np.isnan(areas["Mass"]))
    largest = known[np.argsort(areas["Mass"][known])][-(len(known) // 3) :]
    kept = np.union1d(np.flatnonzero(labels == 0), largest)
    expected = roc_auc_score(labels[kept], logits[kept])
    assert result.estimates["global large"].value == pytest.approx(expected)


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


def broken(change):
    scored = draw(branches=BRANCHES)
    content = content_of({**_scores(scored), **_estimates(scored, {})}, _scores(scored))
    change(content)
    return content


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(config=None),
        lambda c: c.update(config=[]),
        lambda c: c["config"].update(unknown=1),
        lambda c: c["config"].pop("attention.crop_from"),
        lambda c: c["data"].pop("synthetic"),
        lambda c: c["config"].update(backbone="vgg"),
        lambda c: c["config"].update(seed="one"),
        lambda c: c.update(data=[]),
        lambda c: c.update(test=[]),
        lambda c: c.update(test={}),
        lambda c: c.update(validation={}),
        lambda c: c.pop("init"),
        lambda c: c.update(attention=None),
        lambda c: c.update(weights={}),
        lambda c: c["test"].pop("estimates"),
        lambda c: c["test"].update(patients=7),
        lambda c: c["test"]["auc"].pop("local"),
        lambda c: c["test"]["mean"].update({"global": "high"}),
        lambda c: c["test"]["estimates"]["values"].pop(),
        lambda c: c["test"]["estimates"]["values"].__setitem__(0, float("nan")),
        lambda c: c["test"]["estimates"].update(contributions="AAAA"),
        lambda c: c["test"]["estimates"].update(contributions="no base64!"),
        lambda c: c["test"]["estimates"].update(degrees=None),
    ],
)
def test_damaged_results_are_named(change):
    with pytest.raises(UserError, match=r"^r.json is damaged or of another version; delete it"):
        make_result("r.json", broken(change))


def test_a_test_subset_without_any_finding_has_no_estimates():
    scored = draw(branches=BRANCHES)
    nobody = dataclasses.replace(scored, label_matrix=np.zeros_like(scored.label_matrix))
    found = made({**_scores(nobody), **_estimates(nobody, {})}, _scores(scored))
    assert found.estimates == {} and found.mean("global") is None


def test_missing_labels_are_left_out_by_finding(scored, areas):
    labels = missing_labels(scored.label_matrix, 0.4)
    labels[:60] = MISSING
    masked = dataclasses.replace(scored, label_matrix=labels)
    noise = np.random.default_rng(1).normal(size=labels.shape)
    changed = {name: np.where(labels == MISSING, noise, x) for name, x in scored.logits.items()}
    found = _estimates(masked, areas)
    assert found == _estimates(dataclasses.replace(masked, logits=changed), areas)
    result = made({**_scores(masked), **found}, _scores(masked))
    kept = labels[:, 0] != MISSING
    expected = roc_auc_score(labels[kept, 0], scored.logits["local"][kept, 0])
    assert result.auc("local", "Mass") == pytest.approx(expected)
    table = auc_table(
        labels,
        scored.logits,
        labels=scored.labels,
        findings=scored.findings,
        patient_ids=scored.patient_ids,
    )
    expected = variance_of_mean(table["local"].mean.influence)
    variance = result.estimates["local"].variance
    assert variance.degrees == pytest.approx(expected.degrees)
    np.testing.assert_allclose(variance.contributions, expected.contributions, rtol=1e-3)
