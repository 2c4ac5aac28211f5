"""An evaluation of images of which some labels are missing: its files, and what they say."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from agcnn_jax.data.labels import MISSING
from agcnn_jax.evaluation.auc.aucs import aucs_table
from agcnn_jax.evaluation.auc.table_one import table_one
from agcnn_jax.evaluation.figures import curves
from agcnn_jax.evaluation.figures import files as figures
from agcnn_jax.evaluation.scoring.cohort import MISSING_NOTE
from agcnn_jax.evaluation.scoring.comparison import compare_models
from agcnn_jax.evaluation.scoring.evaluation import Evaluation
from agcnn_jax.evaluation.scoring.films import Answer, _answers, choose_examples
from agcnn_jax.evaluation.scoring.subsets import Subset, count_subset
from agcnn_jax.evaluation.write import write_evaluation
from tests.evaluation.cases import LABELS, draw, evaluated
from tests.support.missing import missing_labels


@pytest.fixture(scope="module")
def scored():
    """A third of the labels of two findings are missing, and all of Hernia."""
    whole = draw()
    matrix = missing_labels(whole.label_matrix, 1 / 3)
    matrix[:, 2] = MISSING
    return dataclasses.replace(whole, label_matrix=matrix)


def evaluation_of(scored):
    results, measures, cohort = evaluated(scored)
    subset = Subset(
        *("test", scored.patient_ids, scored.labels, scored.label_matrix),
        *(np.full(240, 50), scored.groups["sex"], np.full(240, "PA")),
    )
    return Evaluation(
        scored,
        cohort,
        results,
        measures,
        compared=("fusion", "global"),
        differences=compare_models(results["fusion"], results["global"]),
        subsets=[count_subset(subset)],
    )


@pytest.fixture(scope="module")
def evaluation(scored):
    return evaluation_of(scored)


def changed(scored, seed=1):
    """Draw the predictions of missing labels again."""
    missing = scored.label_matrix == MISSING
    other = np.random.default_rng(seed)

    def again(scores, low, high):
        return {
            name: np.where(missing, other.uniform(low, high, one.shape), one)
            for name, one in scores.items()
        }

    return dataclasses.replace(
        scored, probabilities=again(scored.probabilities, 0, 1), logits=again(scored.logits, -9, 9)
    )


def test_predictions_of_missing_labels_change_no_byte(scored, evaluation, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "files", lambda evaluation: {})
    write_evaluation(evaluation, tmp_path / "one")
    write_evaluation(evaluation_of(changed(scored)), tmp_path / "other")
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(files) == 13 and "report.html" in files and "operating_points.csv" in files
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    rows = list(csv.DictReader((tmp_path / "one" / "auc.csv").open()))
    for row, labels in zip(rows, scored.label_matrix.T, strict=False):
        counts = [int((labels == value).sum()) for value in (1, MISSING)]
        assert [int(row[name]) for name in ("positives", "missing")] == counts
        assert int(row["known"]) == 240 - counts[1]
    for row in csv.DictReader((tmp_path / "one" / "metrics.csv").open()):
        labels = scored.label_matrix[:, LABELS.index(row["finding"])]
        known = labels[labels != MISSING]
        assert int(row["known"]) == len(known)
        assert row["prevalence"] == (str(known.mean()) if len(known) else "")
    for row in csv.DictReader((tmp_path / "one" / "subgroups.csv").open()):
        if row["finding"] in LABELS:
            of_group = scored.label_matrix[scored.groups["sex"] == row["group"]]
            labels = of_group[:, LABELS.index(row["finding"])]
            assert int(row["known"]) == (labels != MISSING).sum()
        else:
            assert row["known"] == ""
    for name in ("auc.json", "metrics.json"):
        record = json.loads((tmp_path / "one" / name).read_text())
        assert record["missing_labels"]["Hernia"] == 240 - record["known_labels"]["Hernia"] == 240
    report = (tmp_path / "one" / "report.html").read_text()
    known = [int(row["known"]) for row in rows if row["finding"] in LABELS]
    assert f"is known, {min(known)} to {max(known)} of these 240." in report
    for name in ("auc.md", "metrics.md", "report.html"):
        text = (tmp_path / "one" / name).read_text()
        assert MISSING_NOTE in text and "240" in text


def test_curves_are_those_of_known_labels(scored, evaluation):
    for draw_curves, more in (
        (curves.roc_figure, ()),
        (curves.roc_overview, ()),
        (curves.precision_recall_figure, (evaluation.measures,)),
    ):
        drawn = [
            draw_curves(one, evaluation.results, *more, evaluation.cohort)
            for one in (scored, changed(scored))
        ]
        lines, others = ([line for axes in one.axes for line in axes.lines] for one in drawn)
        assert len(lines) >= 5
        for line, other in zip(lines, others, strict=True):
            np.testing.assert_array_equal(line.get_xydata(), other.get_xydata())
    texts = [text.get_text() for axes in drawn[0].axes for text in axes.texts]
    assert texts == ["no known label"]
    other = evaluation_of(changed(scored))
    for draw_measures in (curves.reliability_figure, curves.decision_figure):
        drawn = [
            draw_measures(one.results, one.measures, one.cohort) for one in (evaluation, other)
        ]
        lines, others = ([line for axes in one.axes for line in axes.lines] for one in drawn)
        assert len(lines) >= 5
        for line, again in zip(lines, others, strict=True):
            np.testing.assert_array_equal(line.get_xydata(), again.get_xydata())
        mass = np.count_nonzero(scored.label_matrix[:, 0] == 1), evaluation.cohort.known("Mass")
        assert drawn[0].axes[0].get_title() == "Mass ({} of {})".format(*mass)
    assert choose_examples(scored) == choose_examples(other.scored) != []
    for row in range(240):
        assert _answers(scored, row) == _answers(other.scored, row)
    roc = curves.roc_figure(scored, evaluation.results, evaluation.cohort)
    assert next(text.get_text() for axes in roc.axes for text in axes.texts) == "no known label"


def test_tables_count_what_is_known_and_say_why_there_is_no_auc(evaluation):
    table = aucs_table(evaluation)
    assert table.groups[0] == ("", ("Finding", "Known", "Positives", "Missing"))
    assert table.rows[2][:5] == ("Hernia", "0", "0", "240", "–")
    assert table.rows[3][:5] == ("Mean (2 of 3)", "", "", "", table.rows[3][4])
    said = "– no AUC, since the label is missing in all images: Hernia. The mean leaves them out."
    assert said in table.below and MISSING_NOTE in table.below
    assert not any("no image is positive" in line for line in table.below)
    rows = {name: cells for name, *cells in table_one(evaluation.subsets).rows}
    assert rows["finding missing: Hernia"] == ["240 (100.0 %)", "120 (100.0 %)"]
    assert rows["finding: Hernia"] == ["0 (0.0 %)", "0 (0.0 %)"]
    assert list(rows)[-3:] == [f"finding missing: {label}" for label in LABELS]


def test_too_few_negatives_are_called_so(scored):
    """Where a report names a finding mostly when it is there."""
    matrix = scored.label_matrix.copy()
    matrix[(matrix[:, 0] == 0) & (np.arange(240) > 9), 0] = MISSING
    few = evaluation_of(dataclasses.replace(scored, label_matrix=matrix))
    drawn = curves.decision_figure(few.results, few.measures, few.cohort)
    assert drawn.axes[0].texts[0].get_text() == "fewer than 10\nnegative patients"


def test_nothing_is_said_where_all_labels_are_known():
    table = aucs_table(evaluation_of(draw()))
    assert table.groups[0] == ("", ("Finding", "Positives"))
    assert MISSING_NOTE not in table.below


def test_a_missing_label_is_neither_ill_nor_healthy(scored):
    """Of Mass, only the first image is ill, the second healthy; the third would be the best."""
    matrix = np.full_like(scored.label_matrix, MISSING)
    matrix[:2, 0] = 1, 0
    scores = np.full(matrix.shape, 5.0)
    scores[:3, 0] = 1, 0, 9
    one = dataclasses.replace(
        scored, label_matrix=matrix, logits={"fusion": scores}, probabilities={"fusion": scores}
    )
    (example,) = choose_examples(one, misses=0)
    assert (example.row, example.column, example.beaten) == (0, 0, 1.0)
    # Bars show probabilities beside known labels.
    assert _answers(one, 0) == [Answer("Mass", 1.0, True)]
    assert _answers(one, 1) == [Answer("Mass", 0.0, False)]
    assert _answers(one, 2) == []
