"""The whole path on real ChestX-ray14 files: preparing, a few training steps, evaluation."""

import csv
import json
import os

import pytest

from tests.programs import ROOT, run

FILMS = ROOT.parent / "shared" / "chestxray14"
ENVIRONMENT = {**os.environ, "XLA_FLAGS": ""}

pytestmark = pytest.mark.skipif(not FILMS.is_dir(), reason=f"no real films: {FILMS} does not exist")


@pytest.fixture(scope="module")
def small_dir(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("small") / "data"
    run("data_prep/chestxray14.py", "--raw_dir", FILMS / "small", "--data_dir", data_dir)
    return data_dir


def test_all_raw_films_are_written(tmp_path):
    run("data_prep/chestxray14.py", "--raw_dir", FILMS / "raw", "--data_dir", tmp_path)
    report = json.loads((tmp_path / "prepare_report.json").read_text())
    assert report["files_seen"] == report["written"] == 102


def test_label_rows_without_a_film_are_reported_without_an_error(small_dir):
    report = json.loads((small_dir / "prepare_report.json").read_text())
    assert report["written"] == 621
    assert report["rows_without_image"]["count"] == 111_499


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


def test_published_aucs_of_a_pytorch_port():
    done = run(
        "eval.py",
        f"--predictions={FILMS}/pytorch_chexnet_predictions.csv.gz",
        f"--labels={FILMS}/Data_Entry_2017_v2020.csv.gz",
    )
    with open(FILMS / "pytorch_chexnet_aucs.csv", newline="") as file:
        for row in csv.DictReader(file):
            line = next(x for x in done.stdout.splitlines() if x.startswith(row["label"]))
            assert f"{float(row['auc']):.6f}" in line
