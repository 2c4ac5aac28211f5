"""A run scored on a collection that it has never known.

The predictions depend on the labels, so that thresholds exist; a program with a real network is
among the slow tests.
"""

import csv
import json
import shutil

import jax
import numpy as np
import pytest
from etils import epath
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from agcnn_jax.config.saved import read_config
from agcnn_jax.data.records import open_records
from agcnn_jax.evaluation import evaluate as evaluation
from agcnn_jax.evaluation.figures import files as figures
from agcnn_jax.models.agcnn import BRANCHES
from agcnn_jax.run import run as run_module
from agcnn_jax.run.calibration import calibrate, write_calibration
from agcnn_jax.run.run import open_run
from agcnn_jax.runtime.devices import device_mesh
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.training.prediction import Prediction
from tests.configs import demo
from tests.support.collections import copy_as
from tests.support.programs import run
from tests.support.runs import make_run
from tests.support.small_steps import random_variables

OTHER = "St. Mary 2024"
NAMES = {
    "Effusion": "Pleural Effusion",
    "Fibrosis": "Pulmonary fibrosis",
    "Pleural_Thickening": "Pleural Thickening",
    "Consolidation": "Lung Opacity",
    "Hernia": None,
    "Nodule": None,
}
"""What the other collection calls the findings; it lacks two and has one more."""


@pytest.fixture(scope="module")
def records(data_dir):
    return open_records(str(data_dir))


@pytest.fixture(scope="module")
def logits(records):
    """`[N, C]`, which belong to the records whatever their names."""
    noise = np.random.default_rng(0).normal(0, 1.5, records.label_matrix.shape)
    return (2.0 * records.label_matrix - 1 + noise).astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def quick(logits):
    def predict(step, variables, experiment, indices, *rest, **options):
        return Prediction(dict.fromkeys(variables["params"], logits[indices]), None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "predict", predict)
        patch.setattr(figures, "files", lambda evaluation: {})
        patch.setattr(evaluation, "score_localisation", lambda *arguments: None)
        patch.setattr(evaluation, "show_films", lambda *arguments: None)
        patch.setattr(run_module, "device_mesh", lambda: device_mesh(jax.devices()[:1]))
        yield


@pytest.fixture(scope="module")
def other_dir(data_dir, tmp_path_factory):
    """Without the official lists, which the run's protocol needs."""
    folder = tmp_path_factory.mktemp("other") / "data"
    return copy_as(data_dir, folder, OTHER, NAMES, ("Fracture",), official_names=0)


def untrained(data_dir, workdir, **changes):
    """A run with weights that nobody trained."""
    config = demo.get_config()
    config.data.dir, config.input_size = str(data_dir), 56
    opened = open_run(config, epath.Path(workdir))
    weights = {"params": {"global": {"w": np.ones(3, "f4")}}, "batch_stats": {"global": {}}}
    make_run(opened, weights, ("global",))
    return workdir


@pytest.fixture(scope="module")
def evaluated(data_dir, tmp_path_factory):
    """A run whose own test images are scored."""
    workdir = untrained(data_dir, tmp_path_factory.mktemp("run") / "run")
    score(workdir)
    return workdir


@pytest.fixture
def workdir(evaluated, tmp_path):
    return shutil.copytree(evaluated, tmp_path / "run")


def score(workdir, data_dir=None, split=None, *maps, **options):
    config = read_config(epath.Path(workdir))
    overrides = {}
    if data_dir is not None:
        config.data.dir = str(data_dir)
        overrides = {"data.dir": str(data_dir)}
    return evaluation.evaluate(config, str(workdir), overrides, split, maps=maps, **options)


def refusal(*arguments, **options):
    with pytest.raises(UserError) as refused:
        score(*arguments, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def external_folder(workdir):
    (folder,) = (workdir / "eval").glob("external_*")
    return folder


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_another_collection(workdir, other_dir, records, logits):
    before = contents(workdir)
    table = score(workdir, other_dir, None, "Consolidation=Lung Opacity")
    folder = external_folder(workdir)
    # All that was there is as it was: thresholds, and the results of the run's own split.
    assert {path: data for path, data in contents(workdir).items() if path in before} == before
    assert folder.name.startswith("external_st_mary_2024_")
    trained = len(json.loads((workdir / "lineage.json").read_text())["seen"][records.collection])
    assert (
        f"External validation: trained on {records.collection} ({trained:,} synthetic images), "
        f"scored on {OTHER} ({len(records):,} images); nothing was fitted there." in table
    )
    assert "they are the run's own; nothing was fitted on the scored images" in table
    report = (folder / "report.html").read_text()
    assert f"<h1>AG-CNN with resnet_small: {OTHER}, all films</h1>" in report or (
        f"<h1>resnet_small: {OTHER}, all films</h1>" in report
    )
    assert report.index("External validation: trained on") < report.index("<nav>")

    scores = json.loads((folder / "auc.json").read_text())
    assert (scores["split"], scores["protocol"], scores["images"]) == ("all", None, len(records))
    assert scores["collection"] == OTHER
    expected = {}
    for column, label in enumerate(records.labels):
        truth = records.label_matrix[:, column]
        if NAMES.get(label, label) and label != "No Finding" and truth.any():
            expected[label] = roc_auc_score(truth, logits[:, column])
    known = {k: v for k, v in scores["branches"]["global"]["auc"].items() if v is not None}
    assert known == pytest.approx(expected, abs=1e-9)
    assert scores["branches"]["global"]["auc_not_in_mean"] == {}
    assert scores["labels"]["Fibrosis"] == "Pulmonary fibrosis"

    rows = rows_of(folder / "matched_findings.csv")
    found = {(row["ours"], row["theirs"]): (row["relation"], row["scored"]) for row in rows}
    assert found["Effusion", "Pleural Effusion"] == ("same", "yes")
    assert found["Pleural_Thickening", "Pleural Thickening"] == ("name", "yes")
    assert found["Consolidation", "Lung Opacity"] == ("part", "yes")
    assert found["Edema", "Edema"] == ("name", "yes")
    assert found["No Finding", "No Finding"] == ("never", "no")
    assert found["Hernia", ""] == found["", "Fracture"] == ("", "no")
    for text in (table, (folder / "report.html").read_text()):
        assert "Consolidation as Lung Opacity (part, asked for with --map)" in text
    assert "part, asked for with --map" in (folder / "matched_findings.md").read_text()


def test_the_run_s_thresholds_and_what_became_of_them(workdir, other_dir, records, logits):
    # As if there were more validation images, with higher scores than here.
    weights = json.loads((workdir / "calibration.json").read_text())["weights"]
    higher = {"global": logits + 0.5}
    _, patients = np.unique(records.patient_ids, return_inverse=True)
    chosen = calibrate(
        *(records.label_matrix, {"global": expit(higher["global"])}, higher),
        labels=records.labels,
        patients=patients,
    )
    write_calibration(epath.Path(workdir), chosen, weights)
    score(workdir, other_dir)
    folder = external_folder(workdir)
    kept = rows_of(folder / "external_thresholds.csv")
    (effusion,) = [row for row in kept if row["finding"] == "Effusion"]
    column = records.labels.index("Effusion")
    truth, called = records.label_matrix[:, column] == 1, {}
    for rule in ("sensitivity_0.9", "specificity_0.9"):
        called[rule] = logits[:, column] >= chosen.branches["global"]["Effusion"].thresholds[rule]
        shares = {
            "sensitivity": called[rule][truth].mean(),
            "specificity": (~called[rule])[~truth].mean(),
        }
        for share, value in shares.items():
            low, middle, high = (
                float(effusion[f"{rule}_{share}{end}"]) for end in ("_low", "", "_high")
            )
            assert low <= middle <= high
            assert middle == pytest.approx(value)
    lines = (folder / "external_thresholds.md").read_text().splitlines()
    (line,) = [one for one in lines if one.startswith("| Effusion | ") and "[" in one]
    assert f"| {called['sensitivity_0.9'][truth].mean() - 0.9:+z.2f} |" in line
    (metrics,) = [x for x in rows_of(folder / "metrics.csv") if x["finding"] == "Effusion"]
    assert metrics["slope"] == effusion["slope"] != ""


def test_a_run_without_thresholds_says_how_to_get_them(data_dir, other_dir, tmp_path):
    workdir = untrained(data_dir, tmp_path / "run")
    table = score(workdir, other_dir)
    assert "run eval.py on the run's own data first (without --config.data.dir)" in table
    assert not (workdir / "calibration.json").exists()


def test_two_collections_and_two_subsets_have_folders_of_their_own(
    workdir, data_dir, other_dir, tmp_path
):
    score(workdir, other_dir)
    again = copy_as(data_dir, tmp_path / "again", "St. Märy/2024", NAMES)
    score(workdir, again)
    score(workdir, again, "test")
    before = contents(workdir)
    folders = sorted(path.name for path in (workdir / "eval").iterdir())
    assert sum(name.startswith("external_st_mary_2024_") for name in folders) == 3
    assert len(folders) == 4 and "test" in folders
    assert [name for name in folders if name.endswith("_test_official")]
    score(workdir, other_dir)
    assert set(contents(workdir)) == set(before)


def test_what_is_refused(workdir, other_dir):
    before = contents(workdir)
    for maps, problem in (
        (["Infiltration=Lung Opacity"], "never mean the same"),
        (["Nodule=Fractures"], "'Fractures' is no label of the data; use one of"),
    ):
        assert problem in refusal(workdir, other_dir, None, *maps)
    assert "lists" in refusal(workdir, other_dir, "test")  # of the run's protocol
    # Thresholds of Mass would be chosen on Nodule's labels.
    assert "these data have the run's own labels" in refusal(workdir, None, None, "Mass=Nodule")
    assert contents(workdir) == before


def test_no_finding_is_in_no_mean_whatever_it_is_called_there(workdir, data_dir, tmp_path):
    other = copy_as(data_dir, tmp_path / "data", OTHER, {"No Finding": "Normal"})
    score(workdir, other, None, "No Finding=Normal")
    scores = json.loads((external_folder(workdir) / "auc.json").read_text())
    assert set(scores["branches"]["global"]["auc_not_in_mean"]) == {"No Finding"}


def test_films_of_another_year_of_the_run_s_own_collection(workdir, data_dir, records, tmp_path):
    """Films and patients are compared with those that were trained on."""
    ids = records.image_ids.tolist()
    later = copy_as(
        *(data_dir, tmp_path / "later", records.collection),
        image_name=lambda i: f"{90000000 + i}_000.png",
    )
    seen = json.loads((workdir / "lineage.json").read_text())["seen"][records.collection]
    table = score(workdir, later, "all")
    shared = len(set(seen.values()) & set(records.patient_ids.tolist()))
    assert (
        f"Images trained on: 0 of {len(ids)}; patients shared with training: {shared} of" in table
    )
    assert "External" not in table
    both = copy_as(
        *(data_dir, tmp_path / "both", records.collection),
        image_name=lambda i: ids[i] if i < 60 else f"{90000000 + i}_000.png",
    )
    found = len(set(ids[:60]) & set(seen))
    assert f"was trained on {found} of the {len(ids)} images" in refusal(workdir, both, "all")


def test_images_of_another_size(workdir, data_dir, tmp_path):
    small = copy_as(data_dir, tmp_path / "data", OTHER, image_size=32)
    assert "prepare the data again with --image_size 64" in refusal(workdir, small)


def test_all_of_the_run_s_own_data(workdir):
    assert "was trained on" in refusal(workdir, None, "all")
    table = score(workdir, None, "all", include_trained=True)
    assert "External" not in table
    assert (workdir / "eval/all_all/auc.json").exists()


def test_other_labels_of_the_run_s_own_collection(workdir, data_dir, records, tmp_path):
    """A split is made, as the run's protocol says."""
    relabelled = copy_as(
        data_dir, tmp_path / "data", records.collection, {"Effusion": "Pleural Effusion"}
    )
    table = score(workdir, relabelled)
    assert "Effusion as Pleural Effusion (same)" in table and "External" not in table
    assert "Images trained on: 0 of" in table


def test_films_of_the_trained_collection_under_other_names(data_dir, tmp_path):
    facts = {"provenance": "ChestX-ray14", "synthetic": False}
    nih = copy_as(data_dir, tmp_path / "nih", "ChestX-ray14", **facts)
    workdir = untrained(nih, tmp_path / "run")
    rsna = copy_as(nih, tmp_path / "rsna", "RSNA", {}, image_name=lambda i: f"1.2.{i}.7.dcm")
    text = refusal(workdir, rsna)
    assert f"{rsna}: RSNA's films are ChestX-ray14's" in text
    assert "was trained on ChestX-ray14" in text and "--include_trained" in text
    assert not (workdir / "eval").exists()
    table = score(workdir, rsna, include_trained=True)
    assert "Images trained on: not known; patients shared with training: not known." in table
    assert "Another collection, perhaps not external" in table


def test_published_results_stand_beside_chestxray14_alone(data_dir, tmp_path):
    for i, (collection, shown) in enumerate((("ChestX-ray14", True), (OTHER, False))):
        facts = {"provenance": collection, "synthetic": False}
        data = copy_as(data_dir, tmp_path / f"data{i}", collection, **facts)
        config = demo.get_config()
        config.data.dir, config.data.protocol, config.input_size = str(data), "random", 56
        workdir = tmp_path / f"run{i}"
        opened = open_run(config, epath.Path(workdir))
        weights = {"params": {"global": {"w": np.ones(3, "f4")}}, "batch_stats": {"global": {}}}
        make_run(opened, weights, ("global",))
        table = score(workdir)
        assert ("Published means on this split" in table) == shown
        report = (workdir / "eval/test/report.html").read_text()
        assert ("Published results" in report) == shown
        assert ("All images come from one institution" in report) == shown


@pytest.mark.slow
def test_the_program(data_dir, other_dir, tmp_path):
    config = demo.get_config()
    config.data.dir, config.input_size, config.eval_batch_size = str(data_dir), 56, 16
    workdir = tmp_path / "run"
    opened = open_run(config, epath.Path(workdir))
    make_run(opened, jax.tree.map(np.asarray, random_variables(opened.recipe.model, 56)), BRANCHES)
    command = ["eval.py", "--config=tests/configs/demo.py", f"--workdir={workdir}"]
    run(*command)
    before = contents(workdir)
    theirs = [f"--config.data.dir={other_dir}", "--map=Consolidation=Lung Opacity"]
    done = run(*command, *theirs, "--map=Edema=Lung Opacity")
    assert "Lung Opacity serves more than one finding" in done.stdout
    folder = external_folder(workdir)
    # Of the same images, whatever the labels are called.
    ours = rows_of(workdir / "eval/test/predictions_fusion.csv")
    there = {row["Image Index"]: row for row in rows_of(folder / "predictions_fusion.csv")}
    for row in ours:
        for finding in ("Effusion", "Fibrosis", "Edema"):
            assert float(there[row["Image Index"]][f"prob_{finding}"]) == pytest.approx(
                float(row[f"prob_{finding}"]), abs=1e-6
            )
    located = json.loads((folder / "localisation.json").read_text())
    assert "Effusion" in json.dumps(located) and "Pleural Effusion" not in json.dumps(located)
    assert {path: data for path, data in contents(workdir).items() if path in before} == before
    failed = run(*command, *theirs, "--map=Infiltration=Lung Opacity", check=False)
    assert failed.returncode == 2
    assert len(failed.stderr.strip().splitlines()) == 1
    assert "never mean the same" in failed.stderr
