"""A run as a StableHLO program and as an ONNX file: the folder, its card, and its answers."""

import hashlib
import importlib.util
import json
import math
import os
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from cv2 import resize
from PIL import Image
from scipy.special import expit

import agcnn_jax
from agcnn_jax import export
from agcnn_jax.inference import load_jax
from agcnn_jax.inference.card import _precision_section
from agcnn_jax.inference.load_jax import load_run
from agcnn_jax.inference.onnx_engines import import_openvino
from agcnn_jax.inference.precision import BranchChange, PrecisionChange
from agcnn_jax.metrics.auc_table import Mean
from agcnn_jax.metrics.interval import Interval
from agcnn_jax.runtime.errors import UserError, missing_package
from tests.portable.models import smooth_images
from tests.support.programs import run as run_program

MODEL = {"stablehlo": {"model.stablehlo", "weights.npz", "load.py"}, "onnx": {"model.onnx"}}


def run(*arguments):
    return export.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folders(workdir, tmp_path_factory):
    """The folder of each format."""
    parent = tmp_path_factory.mktemp("formats")
    for form in MODEL:
        options = ("--format", form, "--license", "cc-by-4.0")
        assert run("--workdir", workdir, "--out", parent / form, *options) == 0
    return {form: parent / form for form in MODEL}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (8, 64, 64), np.uint8)


@pytest.fixture(scope="module")
def expected(workdir, images):
    """The run's answers, with the distances from the training films."""
    model = load_run(workdir)
    outputs = jax.device_get(model.predict_batch(images, heat_maps=True))
    return model, outputs | {"distance": model.distances(outputs["pooled"])}


@pytest.mark.parametrize("form", MODEL)
def test_the_folder(folders, form):
    folder = folders[form]
    others = {"config.json", "calibration.json", "lineage.json", "README.md", "SHA256SUMS"}
    assert {path.name for path in folder.iterdir()} == MODEL[form] | others
    subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    for path in folder.iterdir():
        assert str(folder.parents[1]).encode() not in path.read_bytes(), path


@pytest.mark.parametrize("form", MODEL)
def test_the_card(folders, workdir, form):
    """It says how to run the model, has digests and results, and where no place is left open."""
    text = (folders[form] / "README.md").read_text()
    for path in folders[form].iterdir():
        if path.name not in ("README.md", "SHA256SUMS"):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            assert f"| `{path.name}` | {path.stat().st_size:,} | `{digest}` |" in text
    scores = json.loads((workdir / "eval/test/auc.json").read_text())
    assert len(scores["branches"]) == 3
    assert (workdir / "eval/test/auc.md").read_text().strip() in text
    for words in ("The weights: cc-by-4.0", "## Limits", "uint8 [B, 64, 64]", "resize((64, 64)"):
        assert words in text, words
    if form == "stablehlo":
        assert f"written by jax {jax.__version__}. JAX promises that versions up to six" in text
    else:
        assert "opset 18" in text
    assert ("bfloat16" in text) == (form == "onnx")


def test_the_card_says_what_bfloat16_changes(folders, workdir):
    """Its float32 is the evaluation's, by JAX; where nobody could measure it, the card says so."""
    text = (folders["onnx"] / "README.md").read_text()
    section = text.partition("## bfloat16")[2].partition("##")[0]
    capable = "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert ("For this model nobody has measured" in section) != capable
    if not capable:
        return
    scores = json.loads((workdir / "eval/test/auc.json").read_text())
    for branch, score in scores["branches"].items():
        low, high = score["mean_interval"]
        mean = f"{score['mean']:.3f} ({low:.3f} to {high:.3f})"
        assert re.search(rf"^\| {branch} \| 0\.\d{{4}} \| {re.escape(mean)} \| 0", section, re.M)
    images = json.loads((workdir / "data.json").read_text())["test"]
    assert f"On {images} test images (all {images})" in section
    assert re.search(rf"Boxes that differ: \d+ of {images}\.", section)


def test_data_that_are_gone_leave_bfloat16_unmeasured(workdir, tmp_path, capsys):
    shutil.copytree(workdir, tmp_path / "run")
    config = json.loads((workdir / "config.json").read_text())
    config["data"]["dir"] = str(tmp_path / "gone")
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    options = ("--workdir", tmp_path / "run", "--out", tmp_path / "out", "--format", "onnx")
    assert run(*options) == 0
    assert "the card will not say what bfloat16 changes: " in capsys.readouterr().err
    text = (tmp_path / "out/README.md").read_text()
    assert "For this model nobody has measured" in text and str(tmp_path) not in text


def snippets(folder):
    return re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("form", MODEL)
def test_the_cards_snippets_run(form, folders, images, tmp_path, monkeypatch):
    """One after another in a program of their own, from a film to its box in the film's pixels."""
    folder = shutil.copytree(folders[form], tmp_path / form)
    film = resize(smooth_images(1, 64)[0], (150, 90))
    Image.fromarray(film).save(folder / "film.png")
    result = agcnn_jax.load(folders["onnx"], engine="onnxruntime").predict(film)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "load", raising=False)
    import_openvino()  # before a snippet does, with its telemetry
    answers, names = [], {}
    for text in snippets(folder):
        if "Mesh(" in text:  # a film for each of the devices
            names["images"] = np.repeat(names["images"], len(jax.devices()), axis=0)
        exec(text, names)
        answers += [names["answer"]] if "answer" in names else []
    assert len(answers) == 2
    (place,) = re.findall(r"`(\(x \* .*?)`", (folder / "README.md").read_text())
    for answer in answers:
        logits = answer["logits"] if form == "stablehlo" else answer
        for branch, made in result.branches.items():
            wanted = list(made.logit.values())
            np.testing.assert_allclose(logits[branch][0], wanted, rtol=1e-4, atol=1e-4)
        xmin, _, xmax, _ = np.asarray(answer["boxes"])[0].tolist()
        low, high = (eval(place, {"x": x, "width": 150}) for x in (xmin, xmax))
        assert (math.floor(low), math.ceil(high)) == result.box[::2]
    monkeypatch.delitem(sys.modules, "load", raising=False)


def test_the_program_answers_as_the_run(folders, images, expected):
    model, outputs = expected
    path = folders["stablehlo"] / "load.py"
    spec = importlib.util.spec_from_file_location("loader", path)
    loader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    answer = loader.load()(images)
    np.testing.assert_array_equal(answer["boxes"], outputs["boxes"])
    np.testing.assert_allclose(answer["distance"], outputs["distance"], rtol=1e-4)
    for branch in model.branches:
        probability = expit(outputs[branch])
        np.testing.assert_allclose(
            answer["probabilities"][branch], probability, rtol=0, atol=1e-5, err_msg=branch
        )


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_the_onnx_file_answers_as_the_run(folders, images, expected, engine):
    model, outputs = expected
    loaded = agcnn_jax.load(folders["onnx"], engine=engine)
    answer = loaded.predict_batch(images, heat_maps=True)
    np.testing.assert_array_equal(answer["boxes"], outputs["boxes"])
    np.testing.assert_allclose(loaded.distances(answer["pooled"]), outputs["distance"], rtol=1e-4)
    for branch in model.branches:
        np.testing.assert_allclose(
            expit(answer[branch]), expit(outputs[branch]), rtol=0, atol=1e-5, err_msg=branch
        )
    for name in ("labels", "branches", "image_size", "digest", "lineage", "calibration"):
        assert getattr(loaded, name) == getattr(model, name), name


def test_a_program_is_not_for_this_package(folders):
    words = "stablehlo/SHA256SUMS is of a StableHLO program, which the load.py beside it runs"
    with pytest.raises(UserError, match=words):
        agcnn_jax.load(folders["stablehlo"])


def test_what_it_says(workdir, tmp_path, capsys):
    run("--workdir", workdir, "--out", tmp_path / "a", "--format", "stablehlo")
    assert "with thresholds; load it with its load.py, read its card" in capsys.readouterr().out


@pytest.mark.parametrize("form", MODEL)
def test_what_cannot_be_exported_is_one_line(workdir, tmp_path, monkeypatch, form):
    def refuse(words, place, out):
        with pytest.raises(UserError, match=words) as error:
            run("--workdir", place, "--out", out, "--format", form)
        assert "\n" not in str(error.value)

    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").touch()
    refuse("out", workdir, out)
    assert [path.name for path in out.iterdir()] == ["mine"]
    refuse("nothing is trained", tmp_path, tmp_path / "new")
    with pytest.raises(UserError, match="--branch belongs to --format torch"):
        run("--workdir", workdir, "--out", out, "--format", form, "--branch", "all")
    make_recipe = load_jax.make_recipe
    double = {"dtype": "float64"}
    model = load_run(workdir)
    monkeypatch.setattr(
        type(model), "recipe", make_recipe({**model.config, **double}, len(model.labels))
    )
    refuse(f"config.dtype is float64.*{form}", workdir, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_flatbuffers_missing_is_one_line():
    error = ModuleNotFoundError("No module named 'flatbuffers'", name="flatbuffers")
    assert "this needs flatbuffers, which is not installed; install" in missing_package(error)


@pytest.mark.slow
def test_the_command_without_flatbuffers(workdir, tmp_path):
    """It ends in one line, and leaves nothing."""
    block = (
        "import sys; sys.modules['flatbuffers'] = None; from agcnn_jax import export; export.run()"
    )
    options = ("--workdir", workdir, "--out", tmp_path / "out", "--format", "stablehlo")
    done = run_program("-c", block, *options, check=False, env=os.environ)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "flatbuffers" in done.stderr
    assert not (tmp_path / "out").exists()


def test_what_bfloat16_changes():
    def mean(value, *interval):
        return Mean(("Mass",), value, Interval(*interval) if interval else None, None)

    row = BranchChange(0.01234, mean(0.8, 0.7, 0.9), mean(0.79, 0.69, 0.895))
    text = _precision_section(PrecisionChange(32, 32, 3, {"fusion": row}))
    assert "Boxes that differ: 3 of 32." in text and "(all 32)" in text
    assert "| fusion | 0.0123 | 0.800 (0.700 to 0.900) | 0.790 (0.690 to 0.895) |" in text
    unknown = row._replace(float32=mean(None))
    text = _precision_section(PrecisionChange(32, 64, None, {"global": unknown}))
    assert "Boxes that" not in text and "(spread evenly over all 64)" in text
    assert "| global | 0.0123 | none |" in text
