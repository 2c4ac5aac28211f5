import csv
import dataclasses
import json

import numpy as np
import pytest

from agcnn_jax.evaluation.auc.aucs import aucs_table
from agcnn_jax.evaluation.evaluate_predictions import evaluate_predictions
from agcnn_jax.evaluation.figures import files as figures
from agcnn_jax.evaluation.files.predictions import read_predictions
from agcnn_jax.evaluation.files.table import as_text
from agcnn_jax.evaluation.results_directory import replace_directory
from agcnn_jax.evaluation.scoring.cohort import describe_cohort
from agcnn_jax.evaluation.scoring.evaluation import EvaluatedModel, compute
from agcnn_jax.evaluation.scoring.localisation import WAYS, Count, Localisation
from agcnn_jax.evaluation.scoring.scored import ScoredImages
from agcnn_jax.evaluation.scoring.validation import NOT_VALIDATED
from agcnn_jax.evaluation.write import write_evaluation
from agcnn_jax.metrics.localisation import box_hits, score_hits
from agcnn_jax.run import lineage
from agcnn_jax.run.lineage import Overlap
from agcnn_jax.runtime.errors import UserError
from tests.evaluation.cases import make_films

LABELS = ("Mass", "Hernia", "No Finding")
FIGURES = ("roc", "roc_findings", "precision_recall", "reliability", "decisions")


def given(**changes):
    """Evaluate four images; `changes` are fields of them, or of the evaluation, to replace."""
    labels = np.array([[1, 0, 0], [0, 0, 1], [1, 0, 0], [0, 0, 1]], np.uint8)
    scores = np.array([0.9, 0.6, 0.5, 0.1], np.float32)[:, None].repeat(3, axis=1)
    synthetic = changes.pop("synthetic", False)
    films = changes.pop("films", None)
    localisation = changes.pop("localisation", None)
    scored = ScoredImages(
        image_ids=["a.png", "b.png", "c.png", "d.png"],
        patient_ids=[1, 2, 3, 3],
        labels=LABELS,
        findings=LABELS[:2],
        label_matrix=labels,
        probabilities={"global": scores, "local": 1 - scores, "fusion": scores},
        boxes=np.tile([0, 10, 1024, 1000], (4, 1)).astype(np.int32),
    )
    cohort = describe_cohort(
        labels,
        LABELS,
        [1, 2, 3, 3],
        split="test",
        protocol="official",
        backbone="resnet50",
        provenance="ChestX-ray14",
        collection="ChestX-ray14",
        synthetic=synthetic,
        overlap=Overlap(0, 0, True),
    )
    evaluation = compute(dataclasses.replace(scored, **changes), cohort, NOT_VALIDATED)
    model = EvaluatedModel({"attention": {"tau": 0.7}}, lineage.NOTHING, {"global": "1234"})
    return dataclasses.replace(evaluation, model=model, films=films, localisation=localisation)


def write(folder, evaluation):
    write_evaluation(evaluation, folder)
    return aucs_table(evaluation)


@pytest.fixture
def without_figures(monkeypatch):
    monkeypatch.setattr(figures, "files", lambda evaluation: {})


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_files_and_their_content(tmp_path):
    folder = tmp_path / "eval" / "test"
    printed = write(folder, given())
    assert names(folder) == {
        "auc.json",
        "auc.csv",
        "auc.md",
        "lineage.json",
        "metrics.csv",
        "metrics.json",
        "metrics.md",
        "subgroups.csv",
        "subgroup_differences.csv",
        "comparison.csv",
        "predictions_global.csv",
        "predictions_local.csv",
        "predictions_fusion.csv",
        "boxes.csv",
        *(f"{figure}.{kind}" for figure in FIGURES for kind in ("png", "pdf")),
        "report.html",
    }
    assert names(tmp_path / "eval") == {"test"}
    assert "Mean (1 of 2)" in as_text(printed)
    scores = json.loads((folder / "auc.json").read_text())
    assert (scores["split"], scores["protocol"], scores["images"]) == ("test", "official", 4)
    assert scores["branches"]["global"]["auc"] == {"Mass": 0.75, "Hernia": None}
    assert scores["branches"]["global"]["mean"] == 0.75
    assert scores["branches"]["global"]["missing"] == ["Hernia"]
    low, high = scores["branches"]["global"]["mean_interval"]
    assert 0 <= low < 0.75 < high <= 1
    # Three patients are too few for the second mean.
    nothing = {"findings": [], "mean": None, "interval": None}
    assert scores["branches"]["global"]["mean_of_frequent"] == nothing
    assert scores["fusion_minus_global"]["mean"] == 0
    assert scores["branches"]["local"]["auc_not_in_mean"] == {"No Finding": 0.75}
    assert scores["positives"] == {"Mass": 2, "Hernia": 0, "No Finding": 2}
    assert scores["synthetic"] is False
    rows = list(csv.reader((folder / "boxes.csv").open()))
    assert rows[:2] == [
        ["Image Index", "xmin", "ymin", "xmax", "ymax"],
        ["a.png", "0", "10", "1024", "1000"],
    ]
    back = read_predictions(folder / "predictions_local.csv", LABELS)
    expected = given().scored.probabilities["local"]
    np.testing.assert_array_equal(back.probabilities.astype(np.float32), expected)
    assert back.logits is None


def test_ranks_are_taken_on_logits(tmp_path, without_figures):
    """The probabilities of all images are 1, in memory as in the file that is read back."""
    logits = {"global": np.array([20, 18, 40, 30], np.float32)[:, None].repeat(3, axis=1)}
    ones = {"global": np.ones((4, 3), np.float32)}
    write(tmp_path / "test", given(probabilities=ones, logits=logits, boxes=None))
    auc = json.loads((tmp_path / "test" / "auc.json").read_text())["branches"]["global"]["auc"]
    assert auc["Mass"] == 0.75  # 40 wins against 18 and 30, 20 against 18
    lines = (tmp_path / "test" / "predictions_global.csv").read_text().splitlines()
    assert lines[0].endswith("prob_No Finding,logit_Mass,logit_Hernia,logit_No Finding")
    assert lines[1] == "a.png,1.0,1.0,1.0,20.0,20.0,20.0"
    again = evaluate_predictions(
        tmp_path / "test" / "predictions_global.csv", _label_table(tmp_path)
    )
    assert again.rows[0][2] == "0.750000"


def test_predictions_score_the_same_when_read_back(tmp_path, without_figures):
    write(tmp_path / "test", given())
    again = evaluate_predictions(
        tmp_path / "test" / "predictions_local.csv", _label_table(tmp_path)
    )
    assert again.rows[0][2] == "0.250000"


def _label_table(folder):
    table = folder / "labels.csv"
    table.write_text(
        "Image Index,Finding Labels,Patient ID\na.png,Mass,1\nb.png,No Finding,2\n"
        "c.png,Mass,3\nd.png,No Finding,3\nother.png,Hernia,4\n"
    )
    return table


def test_one_branch_and_no_boxes(tmp_path, without_figures):
    scores = given().scored.probabilities["global"]
    write(tmp_path / "t", given(probabilities={"global": scores}, boxes=None))
    assert "boxes.csv" not in names(tmp_path / "t")
    assert list(json.loads((tmp_path / "t" / "auc.json").read_text())["branches"]) == ["global"]


def test_new_results_replace_old_ones_whole(tmp_path, without_figures):
    folder = tmp_path / "test"
    folder.mkdir()
    (folder / "stale.csv").write_text("old")
    write(folder, given())
    assert "stale.csv" not in names(folder)
    assert names(tmp_path) == {"test"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_interrupted_while_writing_keeps_old_results(tmp_path, monkeypatch, without_figures, error):
    folder = tmp_path / "test"
    folder.mkdir()
    (folder / "auc.json").write_text("old")

    def fail(*_):
        raise error

    monkeypatch.setattr(lineage, "write", fail)
    expected = KeyboardInterrupt if error is KeyboardInterrupt else UserError
    with pytest.raises(expected, match=None if error is KeyboardInterrupt else "No space left"):
        write(folder, given())
    assert (folder / "auc.json").read_text() == "old"
    assert names(tmp_path) == {"test"}
    assert names(folder) == {"auc.json"}


def test_killed_between_the_renames(tmp_path):
    """The old results are put back, so that the next interruption still finds them."""
    (tmp_path / ".test.old").mkdir()
    (tmp_path / ".test.old" / "auc.json").write_text("old")
    (tmp_path / ".test.new").mkdir()
    with pytest.raises(KeyboardInterrupt), replace_directory(tmp_path / "test"):
        raise KeyboardInterrupt
    assert (tmp_path / "test" / "auc.json").read_text() == "old"
    assert names(tmp_path) == {"test"}


def test_mistakes(tmp_path):
    broken = given().scored.probabilities["global"].copy()
    broken[2, 1] = np.nan
    with pytest.raises(UserError, match="the fusion branch gives NaN or infinity for Hernia"):
        write(tmp_path / "test", given(probabilities={"fusion": broken}))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write(tmp_path / "file" / "test", given())
    assert names(tmp_path) == {"file"}


def test_films_reach_the_report(tmp_path):
    films = make_films(2)
    write(tmp_path / "t", given(films=films, synthetic=True))
    page = (tmp_path / "t" / "report.html").read_text()
    assert page.count("<img ") == len(FIGURES) + 2
    assert {"catches.jpeg", "catches.pdf", "misses.jpeg", "misses.pdf"} <= names(tmp_path / "t")
    assert json.loads((tmp_path / "t" / "auc.json").read_text())["synthetic"] is True


def test_localisation_is_written_where_boxes_are(tmp_path, without_figures):
    box = np.array([[[0.0, 0, 4, 4]]])
    scores = {"Mass": score_hits(box_hits(box, box, np.array([[1.0, 1]]), np.array([1]), 8))}
    found = Localisation(
        0.7, "max", Count(1, 1, 1), {"Mass": Count(1, 1, 1)}, {0.7: dict.fromkeys(WAYS, scores)}, {}
    )
    printed = write(tmp_path / "t", given(localisation=found))
    assert "Annotated boxes: 1, in 1 images" in as_text(printed)
    files = {"localisation.json", "localisation.csv", "localisation.md"}
    assert files <= names(tmp_path / "t")
    text = json.loads((tmp_path / "t" / "localisation.json").read_text())
    assert text["scores"]["0.7"]["attended"]["Mass"]["pointing"]["value"] == 1
    nothing = Localisation(0.7, "max", Count(0, 0, 0), {}, {0.7: {way: {} for way in WAYS}}, {})
    printed = write(tmp_path / "t", given(localisation=nothing))
    assert "No image has an annotated box" in as_text(printed)
    assert not files & names(tmp_path / "t")
