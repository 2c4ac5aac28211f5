"""The command that predicts films with a model in an ONNX file, where no JAX is installed."""

import csv
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from scipy.special import expit

pytest.importorskip("pydicom", reason="needs the extra dicom")

from agcnn_jax import predict
from agcnn_jax.data.films import load_film, resize_film
from agcnn_jax.data.jpeg import check_jpeg
from agcnn_jax.data.labels import LABELS
from agcnn_jax.data.pixels import UnreadableImageError
from agcnn_jax.inference import ENGINES
from agcnn_jax.inference.inputs import find_films
from agcnn_jax.inference.load import load
from agcnn_jax.inference.stream import Settings, identity_of
from agcnn_jax.runtime import errors
from agcnn_jax.runtime.errors import UserError
from tests.inference.hostile import whole_films, write_hostile
from tests.support.onnx_stand_in import STORED, expected, write_stand_in
from tests.support.programs import ROOT

FILES = ("predictions.csv", "predictions.jsonl", "errors.csv")

BLOCKED = {"jax", "jaxlib", "flax", "orbax", "optax", "chex", "safetensors", "huggingface_hub"}
BLOCKED |= {"ml_collections", "onnx", *errors.TRAIN}

IMPORTED = {"absl", "cv2", "etils", "fsspec", "matplotlib", "numpy", "PIL", "scipy", "tqdm"}
"""What docs/install.md lists, beside tensorstore, which decodes in other processes, and engines."""

SITE = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
"""

PROGRAM = """
import sys
from importlib import metadata
from agcnn_jax import predict

status = predict.main(sys.argv[1:])
names = {module.partition(".")[0] for module in sys.modules}
print(*names & {*metadata.packages_distributions(), "tensorstore"}, file=sys.stderr)
sys.exit(status)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_stand_in(tmp_path_factory.mktemp("onnx") / "model")


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """A folder with a film of each kind, twelve of noise, and one that is damaged."""
    folder = tmp_path_factory.mktemp("films") / "films"
    folder.mkdir()
    for extension, content in whole_films().items():
        (folder / f"film.{extension}").write_bytes(content)
    noise = np.random.default_rng(0).integers(0, 256, (12, 40, 48), np.uint8)
    for i, image in enumerate(noise):
        Image.fromarray(image).save(folder / f"noise{i}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    return folder


def run(*arguments):
    return predict.main(["--workers=1", *map(str, arguments)])


def rows_of(out):
    with open(out / "predictions.csv", newline="") as file:
        return list(csv.DictReader(file))


def contents(out):
    return {name: (out / name).read_bytes() for name in FILES}


def test_without_jax(model, films, tmp_path):
    """No process imports flax, orbax, optax or safetensors either, those that decode included."""
    (tmp_path / "sitecustomize.py").write_text(SITE)
    options = ("--overlays", "--workers=1", "--engine=onnxruntime", "--out", tmp_path / "out")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "--from", model, *options, films],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    said = done.stderr.splitlines()
    assert any(re.search(r"computed by onnxruntime \d.* in float32; threads: \d", x) for x in said)
    assert "16 of 17 films predicted" in done.stdout
    imported = set(said[-1].split())
    assert imported & IMPORTED == IMPORTED - {"tqdm"}  # which shows a bar in a terminal
    assert not imported & (BLOCKED | {"tensorstore", "openvino"})
    for row in rows_of(tmp_path / "out"):
        wanted = expected(resize_film(load_film(row["path"]), STORED)[None])
        made = [float(row[f"prob_{label}"]) for label in LABELS]
        np.testing.assert_allclose(made, expit(wanted["fusion"][0]), rtol=0, atol=1e-6)
        with Image.open(tmp_path / "out" / row["overlay"]) as picture:
            assert picture.format == "JPEG"
    suffixes = {os.path.splitext(row["path"])[1] for row in rows_of(tmp_path / "out")}
    assert suffixes == {".png", ".jpg", ".tif", ".dcm"}


def test_a_jpeg_without_tensorstore_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    with pytest.raises(UnreadableImageError, match="cannot be checked for damage without tensors"):
        check_jpeg(whole_films()["jpg"])


def test_what_needs_jax_says_so_where_there_is_none():
    for name in ("jax", "orbax.checkpoint", "safetensors"):
        said = errors.surroundings(ModuleNotFoundError(name=name))
        assert said.startswith(f"this needs {name.partition('.')[0]}, which is not installed; ")
    assert errors.surroundings(ModuleNotFoundError(name="tests")) is None


def test_a_stopped_prediction_ends_with_the_same_bytes(model, films, tmp_path, monkeypatch):
    assert run("--from", model, "--batch_size=4", "--out", tmp_path / "whole", films) == 2

    class Kill(BaseException):
        pass

    calls = []
    compute = type(load(model))._compute

    def stopped(self, images, heat_maps):
        calls.append(len(images))
        if len(calls) == 3:
            raise Kill
        return compute(self, images, heat_maps)

    with monkeypatch.context() as patch, pytest.raises(Kill):
        patch.setattr(type(load(model)), "_compute", stopped)
        run("--from", model, "--batch_size=4", "--out", tmp_path / "out", films)
    assert 0 < len(rows_of(tmp_path / "out")) < 16
    assert run("--from", model, "--batch_size=4", "--out", tmp_path / "out", films) == 2
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_engines_and_precisions_do_not_mix(model, films, tmp_path):
    out = ("--out", tmp_path / "out", films)
    run("--from", model, "--engine=onnxruntime", *out)
    with pytest.raises(UserError, match="with --engine onnxruntime, not openvino; choose another"):
        run("--from", model, "--engine=openvino", *out)
    progress = json.loads((tmp_path / "out/progress.json").read_text())
    for name in ("--engine", "--precision"):  # as JAX writes them
        del progress["identity"][name]
    (tmp_path / "out/progress.json").write_text(json.dumps(progress))
    with pytest.raises(UserError, match="with --engine left out, not openvino; choose another"):
        run("--from", model, "--engine=openvino", *out)
    settings = Settings("youden", False, 32, 1)
    single, half = (identity_of(load(model, "openvino", x), settings) for x in ("float32", None))
    assert single == half and single["--precision"] == "float32"


@pytest.mark.parametrize(
    "arguments",
    [("--workdir=a", "--engine=openvino"), ("--weights=a", "--precision=bfloat16")],
)
def test_options_of_onnx_models(arguments):
    with pytest.raises(UserError, match=r"^--(engine|precision) belongs to --from with an ONNX"):
        run(*arguments, "film.png")


@pytest.mark.parametrize("engine", ENGINES)
def test_pieces_are_those_of_one_machine(model, films, tmp_path, engine):
    options = ("--from", model, "--engine", engine, "--batch_size=4")
    assert run("--write_list", "--out", tmp_path / "list", films) == 0
    for shard in (1, 0, 2):
        pieces = ("--list", tmp_path / "list", "--shards=3", "--out", tmp_path / "pieces")
        assert run(*options, *pieces, f"--shard={shard}") == 0
    assert run("--join", tmp_path / "pieces") == 2
    lone = ("--list", tmp_path / "list", "--shards=1", "--shard=0", "--out", tmp_path / "one")
    run(*options, *lone)
    run("--join", tmp_path / "one")
    assert contents(tmp_path / "pieces") == contents(tmp_path / "one")
    other = ENGINES[engine == ENGINES[0]]
    with pytest.raises(UserError, match=f"holds pieces with --engine {engine}, not {other}"):
        run("--from", model, "--engine", other, *pieces, "--shard=0")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_hostile_files(model, tmp_path, engine):
    """Each has a row or a reason, nothing is lost, and the main process stays small."""
    (tmp_path / "films").mkdir()
    write_hostile(tmp_path / "films")
    given = find_films([str(tmp_path / "films")], tmp_path / "out").films
    program = """
import sys
from pathlib import Path
from agcnn_jax import predict

status = predict.main(sys.argv[1:])
[peak] = [x.split()[1] for x in Path("/proc/self/status").open() if x.startswith("VmHWM")]
print(peak)
sys.exit(status)
"""
    options = ("--engine", engine, "--workers=2", "--batch_size=8", "--out", tmp_path / "out")
    done = subprocess.run(
        [sys.executable, "-c", program, "--from", model, *options, tmp_path / "films"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    predicted = [row["path"] for row in rows_of(tmp_path / "out")]
    with open(tmp_path / "out/errors.csv", newline="") as file:
        refused = list(csv.DictReader(file))
    assert len(given) > 505 and len(predicted) >= 100
    assert len(predicted) + len(refused) == len(given)
    assert not {*predicted} & {row["path"] for row in refused}
    assert all(row["reason"] and len(row["reason"]) < 300 for row in refused)
    answers = (tmp_path / "out/predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["path"] for line in answers] == predicted
    assert int(done.stdout.split()[-1]) < 700_000  # kB
