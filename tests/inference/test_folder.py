"""The folder of predictions: what it holds after a stop, and what never mixes in it."""

import csv
import dataclasses
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from agcnn_jax.inference import folder as folders
from agcnn_jax.inference.films import NO_PIXELS, DecodedFilm, printable
from agcnn_jax.inference.folder import open_folder
from agcnn_jax.inference.load_jax import load_run
from agcnn_jax.inference.stream import Settings, columns_of, predict_files, write_rows
from agcnn_jax.runtime.errors import UserError

COLUMNS = ("Image Index", "path")


def write(out, films):
    with open_folder(out, {"weights": "a"}, COLUMNS, films) as folder:
        for film in films[folder.films :]:
            folder.add(film, [printable(film), printable(film)], {}, unlike=False)


@pytest.mark.parametrize("failing", [1, 2])
def test_a_stop_before_the_first_rows_can_be_continued(tmp_path, monkeypatch, failing):
    """At the first save, and after it, when the headers reach the disk."""
    real, calls = folders.write_json, []

    def write_json(*arguments):
        calls.append(arguments)
        if len(calls) == failing:
            raise KeyboardInterrupt
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(folders, "write_json", write_json)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "out", ["a.png"])
    write(tmp_path / "out", ["a.png"])
    write(tmp_path / "whole", ["a.png"])
    for name in folders.FILES:
        found = (tmp_path / "out" / name).read_bytes()
        assert found == (tmp_path / "whole" / name).read_bytes()
    assert (tmp_path / "out/errors.csv").read_text() == "Image Index,path,reason\n"


def test_control_characters_in_names_break_no_row(tmp_path):
    films = ["a\rb.png", "c\nd.png", r"c\nd.png", "e\u2028f.png", "\udcff.png", "胸部 x.png"]
    write(tmp_path, films)
    with open(tmp_path / "predictions.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    expected = [r"a\rb.png", r"c\nd.png", r"c\\nd.png", r"e\u2028f.png"]
    expected += [r"\udcff.png", "胸部 x.png"]
    assert rows == [list(COLUMNS), *([name, name] for name in expected)]


@given(name=st.binary())
def test_a_printed_name_is_reversible(name):
    """Whatever its bytes are, so that no two names are printed alike."""
    path = os.fsdecode(name)
    shown = printable(path)
    shown.encode()  # UTF-8 can write it
    assert len(shown.splitlines()) <= 1
    assert shown.encode("latin-1", "backslashreplace").decode("unicode_escape") == path


def test_models_that_differ_in_labels_or_config_never_mix(workdir, tmp_path):
    model = load_run(workdir)
    settings = Settings("youden", False, 1, 1)
    missing = [str(tmp_path / "missing.png")]  # refused, so that nothing is compiled
    predict_files(model, missing, tmp_path / "out", settings)
    labels = (model.labels[1], model.labels[0], *model.labels[2:])
    attention = {**model.config["attention"], "tau": 0.05}
    for change in (
        {"labels": labels},
        {"image_size": model.image_size + 1},
        {"config": {**model.config, "attention": attention}},
        {"config": {**model.config, "mean": [0.4]}},
    ):
        other = dataclasses.replace(model, **change)
        with pytest.raises(UserError, match="holds predictions with labels and config"):
            predict_files(other, missing, tmp_path / "out", settings)
    only_training = {**model.config, "seed": model.config["seed"] + 1}
    same = dataclasses.replace(model, config=only_training)
    assert predict_files(same, missing, tmp_path / "out", settings).new == 0


def test_a_film_whose_answer_is_no_number_is_refused(workdir, tmp_path):
    """And the others keep their own rows."""
    model = load_run(workdir)
    stored = np.random.default_rng(0).integers(0, 256, (3, 64, 64), np.uint8)
    outputs = {name: np.array(values) for name, values in model.predict_batch(stored).items()}
    outputs["local"][1, 3] = np.nan
    films = ["a.png", "b.png", "broken.png", "c.png"]
    decoded = [DecodedFilm(image, 64, 64, NO_PIXELS) for image in stored]
    given = list(zip(films, [*decoded[:2], "truncated", decoded[2]], strict=True))
    columns = columns_of(model)
    with open_folder(tmp_path, {}, columns, films) as folder:
        write_rows(folder, model, given, outputs, "youden")
        assert (folder.films, folder.refused) == (4, 2)
    with open(tmp_path / "predictions.csv", newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["a.png", "c.png"]
    for name, i in (("a.png", 0), ("c.png", 2)):
        expected = expit(outputs["fusion"][i, model.labels.index("Mass")])
        assert float(rows[name]["prob_Mass"]) == pytest.approx(expected, rel=1e-6)
    with open(tmp_path / "errors.csv", newline="") as file:
        reasons = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    assert reasons == {
        "b.png": "the model's answer is no finite number",
        "broken.png": "truncated",
    }


def test_a_refused_folder_is_left_as_it_was(workdir, tmp_path):
    (tmp_path / "predictions.csv").write_text("something else\n")
    with pytest.raises(UserError, match=r"holds a predictions.csv of something else"):
        predict_files(load_run(workdir), ["a.png"], tmp_path, Settings("youden", True, 1, 1))
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.csv"]
