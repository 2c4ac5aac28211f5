"""The wheel alone, installed into empty environments outside the checkout."""

import csv
import os
import shlex
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

import agcnn_jax
from tests.support.onnx_stand_in import write_stand_in
from tests.support.programs import ROOT

IMAGE = "raw/images/00000001_000.png"
PYTHON = sys._base_executable
"""The one that made this environment; it has pip."""

LITTLE = ("backbone=resnet_small", "input_size=56", "batch_size=(8,8,8)")
LITTLE += ("max_steps=2", "data.dir=data")
SETTINGS = [f"--config.{setting}" for setting in LITTLE]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build from a copy, so that nothing is left in the checkout."""
    copy = tmp_path_factory.mktemp("source") / "copy"
    copy.mkdir()
    for name in ("LICENSE", "MANIFEST.in", "pyproject.toml"):
        shutil.copy(ROOT / name, copy)
    for name in ("agcnn_jax", "configs", "data_prep", "docs", "tests"):
        unwanted = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, copy / name, ignore=unwanted)
    folder = tmp_path_factory.mktemp("dist")
    pip("wheel", "--no-deps", "--wheel-dir", folder, copy)
    (built,) = folder.glob("*.whl")
    return built


def pip(*arguments, environment=None):
    where = ["--python", environment / "bin/python"] if environment else []
    run([PYTHON, "-m", "pip", *where, *arguments, "--quiet"])


def environment(folder, *wanted):
    """Make an environment with a wheel and what it needs, of the versions of the lock."""
    run([PYTHON, "-m", "venv", "--without-pip", folder])
    constraints = ROOT / "requirements.lock"
    pip("install", "--no-compile", "-c", constraints, *wanted, environment=folder)
    return folder


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """An environment with the wheel and its extra `train`."""
    return environment(tmp_path_factory.mktemp("whole"), f"{wheel}[train]")


@pytest.fixture(scope="module")
def exported(installed, tmp_path_factory):
    """A folder in which a run was prepared, trained, evaluated, and exported as `model`."""
    folder = tmp_path_factory.mktemp("walk")

    def command(name, *arguments):
        return run([installed / f"bin/agcnn-{name}", *arguments], cwd=folder)

    command("prepare", "phantoms", "--out_dir", "raw", "--patients", "46", "--size", "64")
    command("prepare", "chestxray14", "--raw_dir=raw", "--data_dir=data", "--image_size=64")
    command("train", "--config", "demo", "--workdir", "run", *SETTINGS)
    command("eval", "--config", "demo", "--workdir", "run", *SETTINGS)
    command("predict", "--workdir", "run", "--out", "predicted", "raw/images")
    command("export", "--workdir", "run", "--out", "model")
    return folder


def run(command, cwd=None, check=True):
    """Run a program without what this one has in its environment and in its folder."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    pips = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**kept, **pips, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not check or done.returncode == 0, (
        f"{command}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    )
    return done


def test_the_wheel_holds_the_package_alone(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "agcnn_jax",
        f"agcnn_jax-{agcnn_jax.__version__}.dist-info",
    }
    assert {"agcnn_jax/configs/demo.py", "agcnn_jax/data/tables/synonyms.csv"} <= set(names)


def test_the_wheel_goes_from_raw_films_to_a_report(exported):
    test = exported / "run/eval/test"
    assert (test / "report.html").is_file()
    assert (exported / "model/README.md").is_file()
    rows = (exported / "predicted/predictions.csv").read_text().splitlines()
    assert len(rows) == 1 + len(list((exported / "raw/images").iterdir()))


@pytest.fixture(scope="module")
def alone(wheel, tmp_path_factory):
    """An environment with the wheel without extras."""
    return environment(tmp_path_factory.mktemp("alone"), wheel)


def test_the_wheel_without_extras_predicts_with_an_exported_model(alone, exported):
    predict = alone / "bin/agcnn-predict"
    run([predict, "--from", "model", "--out", "again", "raw/images"], cwd=exported)
    again, predicted = (exported / name / "predictions.csv" for name in ("again", "predicted"))
    assert again.read_bytes() == predicted.read_bytes()
    program = (
        "import agcnn_jax, sys; film = agcnn_jax.load('model').predict(sys.argv[1]); "
        "print(film.probability['Nodule'])"
    )
    done = run([alone / "bin/python", "-c", program, IMAGE], cwd=exported)
    with again.open() as file:
        row = next(row for row in csv.DictReader(file) if IMAGE.endswith(row["Image Index"]))
    assert float(done.stdout) == pytest.approx(float(row["prob_Nodule"]), abs=1e-6)


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--config", "demo", "--workdir", "other", *SETTINGS),
        ("eval", "--config", "demo", "--workdir", "run", *SETTINGS),
        ("prepare", "chestxray14", "--raw_dir", "raw", "--data_dir", "other"),
    ],
)
def test_the_wheel_without_extras_names_the_one_that_is_missing(alone, exported, arguments):
    done = run([alone / f"bin/agcnn-{arguments[0]}", *arguments[1:]], cwd=exported, check=False)
    assert done.returncode == 2, done
    assert "which is not installed; install agcnn-jax with its extra train" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (exported / "other").exists()


def test_the_packages_that_the_docs_name_predict_with_an_onnx_file(wheel, tmp_path):
    """None of JAX, flax, orbax and the others is there."""
    page = (ROOT / "docs/install.md").read_text()
    [line] = [one for one in page.splitlines() if one.endswith(" onnxruntime")]
    named = shlex.split(line.partition("requirements.lock ")[2])
    small = environment(tmp_path / "small", *named)
    pip("install", "--no-deps", wheel, environment=small)
    assert not list(small.glob("lib/python*/site-packages/jax*"))
    write_stand_in(tmp_path / "model")
    noise = np.random.default_rng(0).integers(0, 256, (40, 48), np.uint8)
    for name in ("a.png", "b.jpg"):
        Image.fromarray(noise).save(tmp_path / name)
    films = ("a.png", "b.jpg")
    run([small / "bin/agcnn-predict", "--from", "model", "--overlays", *films], cwd=tmp_path)
    with (tmp_path / "predictions/predictions.csv").open() as file:
        assert [row["Image Index"] for row in csv.DictReader(file)] == [*films]
    done = run([small / "bin/agcnn-predict", "--workdir", "x", "a.png"], cwd=tmp_path, check=False)
    assert done.returncode == 2 and "needs jax, which is not installed; install" in done.stderr
