"""The whole path on real ChestX-ray14 files: preparing, a few training steps, evaluation."""

import csv
import json
import os

import jax
import numpy as np
import pytest
from etils import epath

from agcnn_jax import predict
from agcnn_jax.config.saved import read_config
from agcnn_jax.evaluation.evaluate import evaluate
from agcnn_jax.evaluation.figures import files as figures
from agcnn_jax.evaluation.scoring.localisation import WAYS, annotated_boxes, score_localisation
from agcnn_jax.models.agcnn import BRANCHES
from agcnn_jax.run.run import open_run
from tests.configs import demo
from tests.support.programs import run
from tests.support.runs import make_run
from tests.support.shared import CHEST_XRAY14, needs_chest_xray14
from tests.support.small_steps import random_variables

ENVIRONMENT = {**os.environ, "XLA_FLAGS": ""}

pytestmark = needs_chest_xray14


@pytest.fixture(scope="module")
def small_dir(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("small") / "data"
    run("data_prep/chestxray14.py", "--raw_dir", CHEST_XRAY14 / "small", "--data_dir", data_dir)
    return data_dir


def test_localisation_on_the_annotated_films(small_dir):
    config = demo.get_config()
    config.data.dir = str(small_dir)
    config.data.protocol = "random"
    experiment = open_run(config, epath.Path("/nowhere"))
    records = experiment.records
    everything = np.arange(len(records))
    # NIH's list: x 118.11, y 483.28, width 85.60, height 101.86 in pixels of the 1024 x 1024 image.
    # The input of 112 pixels is the centre of 896.
    nodules = annotated_boxes(experiment, everything)["Nodule"]
    [row] = np.flatnonzero(records.image_ids[nodules.records] == "00013911_000.png")
    corners = np.array([118.112169, 483.284656, 203.716402, 585.142857])
    np.testing.assert_allclose(nodules.boxes[row, 0], (corners - 64) / 8, atol=0.01)
    columns = {label: column for column, label in enumerate(records.labels)}
    variables = random_variables(experiment.recipe.model, config.input_size)
    found = score_localisation(experiment, variables, columns, everything)
    assert (found.total.boxes, found.total.images) == (12, 12)
    assert {finding: count.boxes for finding, count in found.counts.items()} == {
        "Atelectasis": 1,
        "Cardiomegaly": 3,
        "Infiltration": 1,
        "Mass": 1,
        "Nodule": 3,
        "Pneumonia": 3,
    }
    # A heart fills the centre; a nodule is a tenth as wide as the image.
    square = found.scores[0.1]["centred_square"]
    assert square["Cardiomegaly"].centre.value == 1
    assert square["Nodule"].iou.value[0] == 0
    assert set(found.scores[0.1]) == set(WAYS)


@pytest.mark.slow
def test_predictions_of_the_raw_films_are_those_of_the_evaluation(tmp_path):
    """Prepared and evaluated, or predicted from the files as NIH ships them."""
    run(
        "data_prep/chestxray14.py",
        "--raw_dir",
        CHEST_XRAY14 / "raw",
        "--data_dir",
        tmp_path / "data",
    )
    config = demo.get_config()
    config.data.dir, config.data.protocol = str(tmp_path / "data"), "random"
    workdir = tmp_path / "run"
    experiment = open_run(config, epath.Path(workdir))
    variables = random_variables(experiment.recipe.model, config.input_size)
    make_run(experiment, jax.tree.map(np.asarray, variables), BRANCHES)
    known = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "files", lambda evaluation: {})
        for split in ("test", "validation", "train"):
            evaluate(read_config(experiment.workdir), str(workdir), {}, split)
            with open(workdir / f"eval/{split}/predictions_fusion.csv", newline="") as file:
                known |= {row["Image Index"]: row for row in csv.DictReader(file)}
    out = tmp_path / "predictions"
    assert (
        predict.main([f"--workdir={workdir}", f"--out={out}", str(CHEST_XRAY14 / "raw/images")])
        == 0
    )
    with open(out / "predictions.csv", newline="") as file:
        found = list(csv.DictReader(file))
    assert {row["Image Index"] for row in found} == set(known) and len(found) == 102
    for row in found:
        for column, value in known[row["Image Index"]].items():
            if column.startswith("prob_"):
                assert abs(float(row[column]) - float(value)) <= 1e-6


@pytest.mark.parametrize(
    ("config", "options"),
    [
        pytest.param(
            "demo",
            ["--config.epochs=1", "--config.data.protocol=patient"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "resnet",
            [
                "--config.init=random",
                "--config.max_steps=2",
                "--config.batch_size=(8,8,8)",
                "--config.eval_batch_size=32",
            ],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_train_and_evaluate(small_dir, tmp_path, config, options):
    workdir = tmp_path / "run"
    run(
        "train.py",
        f"--config=configs/{config}.py",
        f"--workdir={workdir}",
        f"--config.data.dir={small_dir}",
        *options,
        env=ENVIRONMENT,
    )
    done = run("eval.py", f"--config=configs/{config}.py", f"--workdir={workdir}", env=ENVIRONMENT)
    scores = json.loads((workdir / "eval/test/auc.json").read_text())
    assert list(scores["branches"]) == ["global", "local", "fusion"]
    assert ("0.868" in done.stdout) == (config == "resnet")  # the paper's row for its backbone
    assert "synthetic" not in done.stdout.lower()
    with open(workdir / "eval/test/boxes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == scores["images"]
    for row in rows:
        xmin, ymin, xmax, ymax = (int(row[side]) for side in ("xmin", "ymin", "xmax", "ymax"))
        assert 0 <= xmin < xmax <= 256
        assert 0 <= ymin < ymax <= 256


@pytest.mark.slow
def test_published_aucs_of_a_pytorch_port():
    done = run(
        "eval.py",
        f"--predictions={CHEST_XRAY14}/pytorch_chexnet_predictions.csv.gz",
        f"--labels={CHEST_XRAY14}/Data_Entry_2017_v2020.csv.gz",
    )
    with open(CHEST_XRAY14 / "pytorch_chexnet_aucs.csv", newline="") as file:
        for row in csv.DictReader(file):
            line = next(x for x in done.stdout.splitlines() if x.startswith(row["label"]))
            assert f"{float(row['auc']):.6f}" in line


@pytest.mark.slow
def test_experiments_on_real_films(small_dir, tmp_path):
    options = (
        *("--config=tests/configs/demo.py", "--config.input_size=64"),
        "--config.data.protocol=patient",
        *(f"--config.data.dir={small_dir}", f"--workdir={tmp_path}", "--config.max_steps=4"),
    )
    run("-m", "agcnn_jax.experiments", "table1", *options, "--seeds=2", env=ENVIRONMENT)
    content = json.loads((tmp_path / "table1/table.json").read_text())
    assert content["provenance"] == "ChestX-ray14"
    (row,) = content["backbones"]["resnet_small"]["rows"].values()
    assert row["branches"]["global"]["seeds"] == 2
    # The paper's ResNet-50 is shown where it has none of the backbone.
    assert row["branches"]["fusion"]["paper"] == 0.868
    assert "synthetic" not in (tmp_path / "table1/table.md").read_text()
