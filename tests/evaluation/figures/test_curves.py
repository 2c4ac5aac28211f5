import dataclasses

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve, roc_curve

from agcnn_jax.evaluation.figures import curves
from agcnn_jax.metrics.calibration import THRESHOLDS
from tests.evaluation.cases import draw, evaluated


@pytest.fixture(scope="module")
def case():
    scored = draw()
    return scored, *evaluated(scored)


def panels(figure):
    return {axes.get_title(): axes for axes in figure.axes if axes.get_title()}


def curve(axes, label):
    (line,) = (line for line in axes.lines if line.get_label().startswith(label))
    return line.get_xydata()


def test_roc(case):
    scored, results, _, cohort = case
    figure = curves.roc_figure(scored, results, cohort)
    assert list(panels(figure)) == ["Mass (80)", "Pleural Thickening (48)", "Hernia (0)"]
    mass = panels(figure)["Mass (80)"]
    names = [text.get_text() for text in mass.get_legend().get_texts()]
    assert names == [f"{branch} {results[branch].auc['Mass']:.3f}" for branch in results]
    false, true, _ = roc_curve(scored.label_matrix[:, 0], scored.logits["fusion"][:, 0])
    np.testing.assert_allclose(curve(mass, "fusion"), np.stack([false, true], 1), atol=0)
    hernia = panels(figure)["Hernia (0)"]
    assert [text.get_text() for text in hernia.texts] == ["no positive image"]
    assert "resnet50, test split" in figure.get_suptitle()
    assert "SYNTHETIC" not in figure.get_suptitle()


def test_synthetic_images_are_named(case):
    scored, results, _, cohort = case
    synthetic = dataclasses.replace(cohort, synthetic=True)
    assert "SYNTHETIC IMAGES" in curves.roc_figure(scored, results, synthetic).get_suptitle()


def test_all_findings_of_a_branch(case):
    scored, results, _, cohort = case
    figure = curves.roc_overview(scored, results, cohort)
    mean = results["fusion"].mean.value
    axes = panels(figure)[f"fusion, mean {mean:.3f}"]
    # Hernia has no curve.
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    thickening = results["fusion"].auc["Pleural_Thickening"]
    assert labels[1:] == [f"Pleural Thickening {thickening:.3f}"]


def test_precision_and_recall(case):
    scored, results, measures, cohort = case
    figure = curves.precision_recall_figure(scored, results, measures, cohort)
    mass = panels(figure)["Mass (80)"]
    precision, recall, _ = precision_recall_curve(
        scored.label_matrix[:, 0], scored.logits["global"][:, 0]
    )
    drawn = curve(mass, "global")
    # Points that the eye cannot tell apart are left out.
    assert {tuple(point) for point in drawn} <= set(zip(recall, precision, strict=True))
    assert len(drawn) > 100
    assert mass.lines[0].get_ydata()[0] == 80 / 240
    assert panels(figure)["Hernia (0)"].texts[0].get_text().startswith("fewer than 10")


def test_reliability(case):
    _, results, measures, cohort = case
    figure = curves.reliability_figure(results, measures, cohort)
    found = measures.findings["fusion"]["Mass"].reliability
    drawn = curve(panels(figure)["Mass (80)"], "fusion")
    np.testing.assert_array_equal(drawn, np.stack([found.predicted, found.observed], 1))


def test_decision_curves(case):
    _, results, measures, cohort = case
    figure = curves.decision_figure(results, measures, cohort)
    axes = panels(figure)["Pleural Thickening (48)"]
    found = measures.findings["global"]["Pleural_Thickening"].decision_curve
    drawn = curve(axes, "global")
    np.testing.assert_array_equal(drawn, np.stack([THRESHOLDS, found], 1)[: len(drawn)])
    everybody = dict(curve(axes, "calling all"))
    # At a threshold that equals the prevalence, calling all is worth as little as calling none.
    assert everybody[0.2] == pytest.approx(0, abs=1e-12)
    assert everybody[0.5] == pytest.approx(2 * 0.2 - 1)
