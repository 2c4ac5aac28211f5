"""A leading `~` is the home folder wherever a user names a path, and nowhere else."""

import json

import pytest
from PIL import Image

import agcnn_jax
from agcnn_jax import predict
from agcnn_jax.config.keys import check_value
from agcnn_jax.data.films import load_film
from agcnn_jax.data.records import open_records
from agcnn_jax.data.splits import make_split
from agcnn_jax.data_prep import chestxray14, torch_weights
from agcnn_jax.evaluation.evaluate_predictions import evaluate_predictions
from agcnn_jax.inference.inputs import find_films
from agcnn_jax.interop.trained_on import parse_option
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.paths import expand
from agcnn_jax.runtime.storage import absolute
from tests.data_prep.nih_files import STORE, make_raw, prepare


@pytest.fixture
def home(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    yield tmp_path / "home"
    assert not list((tmp_path / "here").iterdir())


def test_only_a_leading_tilde_is_the_home_folder(home):
    assert expand("~/x") == str(home / "x") == str(absolute("~/x"))
    for path in ("gs://bucket/~/x", "a/~/x", "~nobody-has-this-name/x", "hf://a/b", "", "./x"):
        assert expand(path) == path
    assert str(absolute("gs://bucket/~/x")) == "gs://bucket/~/x"


def test_commands(home):
    options = chestxray14.parse_arguments(
        ["--raw_dir=~/r", "--data_dir=~/d", "--labels=~/l", "--boxes=~/b", "--lists=~/i"]
    )
    found = (options.raw_dir, options.data_dir, options.labels, options.boxes, options.lists)
    assert found == tuple(home / name for name in "rdlbi")
    options = predict.parse_arguments(["~/f", "--workdir=~/w", "--out=~/o"])
    assert options.out == home / "o"
    options = torch_weights.parse_arguments(
        ["--weights", "~/w", "timm/a", "--backbone=resnet50", "--out=~/o"]
    )
    assert (options.weights, options.out) == ([str(home / "w"), "timm/a"], home / "o")


@pytest.mark.parametrize("key", ["workdir", "init", "data.dir", "data.lists"])
def test_configs(home, key):
    assert check_value(key, "~/x") == str(home / "x")
    assert check_value(key, "gs://bucket/~/x") == "gs://bucket/~/x"
    assert check_value(key, "random") == "random"


def test_folders(home):
    make_raw(home / "raw")
    assert prepare("~/raw", "~/data") == 0
    records = open_records("~/data")
    assert records.directory == home / "data" / STORE
    (home / "lists").mkdir()
    for subset, name in zip(("train", "val", "test"), records.image_ids, strict=False):
        (home / "lists" / f"{subset}_list.txt").write_text(name)
    assert len(make_split(records, "lists", 0, "~/lists", allow_unlisted=True).test) == 1
    (home / "run").mkdir()
    (home / "run" / "config.json").write_text("{")
    with pytest.raises(UserError, match=f"^{home}/run/config.json "):
        agcnn_jax.load("~/run")


def test_files(home):
    Image.new("L", (8, 8), 7).save(home / "a.png")
    assert find_films(["~/a.png"], home / "out").films == [str(home / "a.png")]
    assert load_film("~/a.png").tolist() == [[7] * 8] * 8
    names = ["00000001_000.png", "00000002_000.png"]
    (home / "names.txt").write_text("\n".join(names))
    assert "2 image(s)" in parse_option("~/names.txt").words
    lineage = {
        "init": None,
        "seen": {"ChestX-ray14": {names[0]: "1"}},
        "unlisted": [],
        "synthetic": [],
    }
    (home / "lineage.json").write_text(json.dumps(lineage))
    rows = f"{names[0]},Mass,1\n{names[1]},No Finding,2\n"
    (home / "labels.csv").write_text(f"Image Index,Finding Labels,Patient ID\n{rows}")
    for name in "pq":
        scores = f"{names[0]},0.9\n{names[1]},0.1\n"
        (home / f"{name}.csv").write_text(f"Image Index,prob_Mass\n{scores}")
    table = evaluate_predictions(
        "~/p.csv",
        "~/labels.csv",
        compare_path="~/q.csv",
        subset_path="~/names.txt",
    )
    assert any("Images trained on: 1 of 2" in line for line in table.below)
