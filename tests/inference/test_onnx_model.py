"""Models in ONNX files: what they answer, in which engine; and files that are no model."""

import base64
import importlib.util
import itertools
import json
import multiprocessing
import os
import pickle
import re
import subprocess
import sys
import threading

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from scipy.special import expit

import agcnn_jax
from agcnn_jax.config.keys import nest
from agcnn_jax.data.labels import LABELS
from agcnn_jax.inference import ENGINES, onnx_engines
from agcnn_jax.inference.load import load, load_exported
from agcnn_jax.interop import hub
from agcnn_jax.metrics.operating_points import RULES
from agcnn_jax.models import BRANCHES
from agcnn_jax.runtime.errors import UserError
from tests.support.forks import said_in_a_fork
from tests.support.onnx_stand_in import INPUT, SETTINGS, STORED, expected, stand_in, write_stand_in
from tests.support.programs import ROOT, run

IMAGES = np.random.default_rng(1).integers(0, 256, (5, STORED, STORED), np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_stand_in(tmp_path_factory.mktemp("onnx") / "model")


@pytest.fixture(scope="module", params=ENGINES)
def model(request, folder):
    return agcnn_jax.load(folder, request.param)


def test_outputs_are_those_by_hand(model):
    """Two batches: results belong to the caller, whatever the engine does with its memory."""
    first, second = (model.predict_batch(part, heat_maps=True) for part in (IMAGES, 255 - IMAGES))
    for made, images in ((first, IMAGES), (second, 255 - IMAGES)):
        wanted = expected(images)
        assert set(made) == set(wanted)
        for name, values in wanted.items():
            assert made[name].dtype == values.dtype
            np.testing.assert_allclose(made[name], values, rtol=0, atol=1e-5, err_msg=name)
    assert set(model.predict_batch(IMAGES)) == set(wanted) - {"heat_maps"}


def test_results_are_those_of_the_outputs(model):
    wanted = expected(IMAGES)
    results = model.predict(IMAGES)
    for i, result in enumerate(results):
        for branch in BRANCHES:
            made = list(result.branches[branch].probability.values())
            np.testing.assert_allclose(made, expit(wanted[branch][i]), atol=1e-6)
        # 36 stored pixels are those of the film, of which the input's 32 are the centre.
        assert result.box == tuple(wanted["boxes"][i] + 2)
        np.testing.assert_allclose(result.heat_map[2:-2, 2:-2], wanted["heat_maps"][i], atol=1e-6)
    assert model.branches == BRANCHES and model.labels == LABELS and model.input_size == INPUT
    for images in (IMAGES[:, 1:], IMAGES[:0]):
        with pytest.raises(ValueError, match=r"give uint8 of shape \(B, 36, 36\), B at least 1"):
            model.predict_batch(images)


def test_tau_is_the_configs(tmp_path):
    config = nest(SETTINGS)
    about = {"config": {**config, "attention": {**config["attention"], "tau": 0.98}}}
    boxes = load(write_stand_in(tmp_path / "m", config=about)).predict_batch(IMAGES)["boxes"]
    np.testing.assert_array_equal(boxes, expected(IMAGES, 0.98)["boxes"])
    assert (boxes != expected(IMAGES)["boxes"]).any()


def test_threads_share_a_model_and_get_their_own_answers(model):
    films = np.random.default_rng(2).integers(0, 256, (8, STORED, STORED), np.uint8)
    wanted = expected(films)
    wrong = []

    def predict(i):
        for count in (1, 3) * 10:  # batches of two sizes take turns
            made = model.predict_batch(np.repeat(films[i : i + 1], count, 0), heat_maps=True)
            for name, values in made.items():
                whole = np.repeat(wanted[name][i : i + 1], count, 0)
                if values.shape != whole.shape or not np.allclose(values, whole, atol=1e-5):
                    wrong.append((i, name))

    threads = [threading.Thread(target=predict, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_pickled_copy_answers_the_same(model):
    copy = pickle.loads(pickle.dumps(model))
    assert copy.computed_by == model.computed_by
    for name, values in model.predict_batch(IMAGES).items():
        np.testing.assert_array_equal(copy.predict_batch(IMAGES)[name], values)


def probabilities(model):
    return [list(result.probability.values()) for result in model.predict(IMAGES)]


@pytest.mark.slow
def test_a_spawned_process_answers_the_same(model):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        made = pool.apply(probabilities, (model,))
    np.testing.assert_allclose(made, probabilities(model), rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*fork")
def test_a_forked_process_gets_one_clear_error(model, folder):
    model.predict_batch(IMAGES)
    said = said_in_a_fork(
        lambda: model.predict(IMAGES),
        lambda: model.predict_batch(IMAGES),
        lambda: load(folder),
    )
    assert len(said) == 3 and all("spawn" in line for line in said)


def test_which_engine(folder, monkeypatch):
    there = set(ENGINES)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        onnx_engines.importlib.util,
        "find_spec",
        lambda name: name in there if name in ENGINES else find(name),
    )
    assert load(folder).computed_by == {"--engine": "openvino", "--precision": "float32"}
    assert load(folder, "onnxruntime").engine == "onnxruntime"
    there.remove("openvino")
    assert load(folder).engine == "onnxruntime"
    for engine, precision in (("openvino", None), (None, "bfloat16")):
        with pytest.raises(UserError, match="needs openvino, which is not installed: install open"):
            load(folder, engine, precision)
    there.clear()
    with pytest.raises(UserError, match="needs openvino or onnxruntime, which is not installed: "):
        load(folder)
    with pytest.raises(UserError, match="engine 'tensorrt' is none of openvino, onnxruntime"):
        load(folder, "tensorrt")
    with pytest.raises(UserError, match="precision 'int8' is none of float32, bfloat16"):
        load(folder, None, "int8")


def test_bfloat16_is_openvinos_alone(folder, monkeypatch):
    openvino = onnx_engines.import_openvino()
    with pytest.raises(UserError, match="bfloat16: onnxruntime computes in float32 alone; give"):
        load(folder, "onnxruntime", "bfloat16")
    able = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if able:
        made = load(folder, precision="bfloat16").predict_batch(IMAGES)["fusion"]
        error = np.abs(made - expected(IMAGES)["fusion"]).max()
        assert 1e-4 < error < 0.1
    core = openvino.Core

    class Older(core):
        def get_property(self, device, name):
            return ["FP32"] if name == "OPTIMIZATION_CAPABILITIES" else "a processor"

    monkeypatch.setattr(openvino, "Core", Older)
    with pytest.raises(UserError, match=r"does not compute in it on this processor \(a processor"):
        load(folder, "openvino", "bfloat16")


def test_openvino_tells_nobody_that_it_was_imported():
    """Its telemetry, which would call a server, is not imported; users may import it later."""
    program = (
        "import sys; from agcnn_jax.inference.onnx_engines import import_openvino\n"
        "import_openvino().Core()\n"
        "print(*sys.modules)\n"
        "import openvino_telemetry"
    )
    imported = run("-c", program).stdout.split()
    assert "openvino.tools.ovc.telemetry_stub" in imported
    assert not [name for name in imported if name.startswith("openvino_telemetry")]


def test_options_of_onnx_files_are_refused_for_other_models(tmp_path):
    weights = write_stand_in(tmp_path / "weights", model_onnx=None, model_safetensors=b"")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text("{}")
    for folder in (weights, tmp_path / "run"):
        for name, arguments in (("engine openvino", ("openvino",)), ("precision b", (None, "b"))):
            with pytest.raises(UserError, match=f"--{name}.* is for models in an ONNX file"):
                load(folder, *arguments)


def renamed(old, new):
    def change(model):
        for node in model.graph.node:
            node.output[:] = [new if name == old else name for name in node.output]
        for output in model.graph.output:
            output.name = new if output.name == old else output.name

    return change


def other_opset(model):
    model.opset_import[0].version = 999


def custom_operator(model):
    model.graph.node[1].op_type = "Attend"
    model.graph.node[1].domain = "of.somebody"
    model.opset_import.append(helper.make_opsetid("of.somebody", 1))


def elsewhere(model):
    [tensor] = [one for one in model.graph.initializer if one.name == "w_global"]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "weights.bin"


def another_input(model):
    model.graph.input.append(helper.make_tensor_value_info("age", TensorProto.FLOAT, [1]))
    model.graph.node[1].input[1] = "age"


def other_labels(model):
    for tensor in model.graph.initializer:
        if tensor.name == "w_local":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.ones((9, 3), np.float32), "w_local"))
    [output] = [one for one in model.graph.output if one.name == "local"]
    output.type.tensor_type.shape.dim[1].dim_value = 3


def of_floats(model):
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


FOREIGN = {
    "damaged": (lambda: stand_in()[:-300], "cannot be read by"),
    "empty": (lambda: b"", "cannot be read by"),
    "noise": (lambda: np.random.default_rng(0).bytes(5000), "cannot be read by"),
    "text": (lambda: b"<?xml version='1.0'?><net/>", "cannot be read by"),
    "no UTF-8": (lambda: stand_in().replace(b"MatMul", b"\x85atMul"), "cannot be read by"),
    "opset": (lambda: stand_in(other_opset), "cannot be read by"),
    "custom operator": (lambda: stand_in(custom_operator), "cannot be read by"),
    "external data": (lambda: stand_in(elsewhere), "keeps weights in other files"),
    "missing output": (
        lambda: stand_in(renamed("boxes", "x_y")),
        "its output boxes is missing",
    ),
    "missing branch": (
        lambda: stand_in(renamed("fusion", "x_y")),
        "its output fusion is missing",
    ),
    "missing input": (
        lambda: stand_in(another_input),
        r"its input age is float32 \[1\], ",
    ),
    "labels": (
        lambda: stand_in(other_labels),
        r"its output local is float32 \[any, 3\]",
    ),
    "floats": (lambda: stand_in(of_floats), "its input images is float32 "),
}


SIGNAL = """
import signal, sys
from agcnn_jax import load

models = [load(sys.argv[1], "openvino") for _ in range(3)]
for model in models:
    model.check()
while models:
    del models[0], model
    model = models[-1] if models else None
came = []
signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
for _ in range(3):
    signal.raise_signal(signal.SIGTERM)
print(len(came))
"""


def test_signals_come_when_models_of_openvino_have_gone(folder):
    """In the order in which they came."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SIGNAL, folder]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr


LOAD_ALL = """
import json, os, sys
from pathlib import Path
from agcnn_jax import load
from agcnn_jax.runtime.errors import UserError

said = {}
for folder in sorted(Path("models").iterdir()):
    try:
        load(folder, sys.argv[1])
    except UserError as error:
        said[folder.name] = str(error)
Path("said.json").write_text(json.dumps(said))
os._exit(0)
"""


@pytest.fixture(scope="module")
def refusals(tmp_path_factory):
    """What each engine's program says of each of `FOREIGN`, and what it prints.

    In processes of their own, whose output can be seen whole.
    """
    made = {}
    for engine in ENGINES:
        folder = tmp_path_factory.mktemp("foreign")
        (folder / "models").mkdir()
        (folder / "weights.bin").write_bytes(bytes(9 * 15 * 4))  # what external data would read
        for case, (make, _) in FOREIGN.items():
            write_stand_in(folder / "models" / case, make())
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", LOAD_ALL, engine],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        made[engine] = json.loads((folder / "said.json").read_text()), done.stdout + done.stderr
    return made


# OpenVINO reads operators of an unknown version as those of the newest.
@pytest.mark.parametrize(
    ("case", "engine"), sorted({*itertools.product(FOREIGN, ENGINES)} - {("opset", "openvino")})
)
def test_a_foreign_file_is_refused_by_name(refusals, case, engine):
    said, printed = refusals[engine]
    assert re.search(rf"models/{case}/model\.onnx.*({FOREIGN[case][1]})", said[case])
    assert "\n" not in said[case] and len(said[case]) < 500
    assert printed == ""


def test_outputs_of_other_shapes_than_declared_are_refused(tmp_path):
    """A file may declare less than it does."""

    def undeclared(model):
        [output] = [one for one in model.graph.output if one.name == "pooled"]
        output.type.tensor_type.ClearField("shape")
        [node] = [one for one in model.graph.node if one.output[0] == "pooled"]
        node.output[0] = "whole"
        model.graph.node.insert(5, helper.make_node("ReduceMax", ["whole"], ["least"], keepdims=0))
        model.graph.node.insert(6, helper.make_node("Unsqueeze", ["least", "axes"], ["pooled"]))
        for one in model.graph.node:
            one.input[:] = ["whole" if name == "pooled" else name for name in one.input]

    folder = write_stand_in(tmp_path / "model", stand_in(undeclared))
    with pytest.raises(UserError, match=r"model\.onnx"):
        load(folder, "onnxruntime").predict_batch(IMAGES)


def test_a_folder_has_one_model_and_all_its_files(tmp_path, folder):
    both = write_stand_in(tmp_path / "both", model_safetensors=b"")
    with pytest.raises(UserError, match=r"lists model.safetensors and model.onnx, but a"):
        load(both)
    copy = write_stand_in(tmp_path / "copy")
    (copy / "model.onnx").write_bytes(stand_in(renamed("boxes", "x_y")))
    with pytest.raises(UserError, match=r"copy/model.onnx was changed or is damaged: its SHA-256"):
        load(copy)
    (copy / "model.onnx").unlink()
    with pytest.raises(UserError, match=r"copy/model.onnx cannot be read: No such file"):
        load_exported(copy)
    for branches in (["local"], [], None):
        out = write_stand_in(tmp_path / f"{branches}", config={"branches": branches})
        with pytest.raises(UserError, match=r"config.json: branches is"):
            load(out)
    (tmp_path / "model.onnx").write_bytes(stand_in())
    with pytest.raises(UserError, match="SHA256SUMS cannot be read: No such file"):
        load(tmp_path)


def test_a_folder_on_the_hub(folder, monkeypatch):
    """All of its files are asked for, of the commit that the first one has."""
    asked = []

    def fetch(name, file, revision, **_):
        asked.append((name, file, revision))
        return folder / file, "commit"

    monkeypatch.setattr(hub, "fetch", fetch)
    made = load("hf://owner/model@v1").predict_batch(IMAGES)
    np.testing.assert_allclose(made["fusion"], expected(IMAGES)["fusion"], atol=1e-5)
    files = ("model.onnx", "config.json", "lineage.json")
    assert asked[0] == ("owner/model", "SHA256SUMS", "v1")
    assert {*asked[1:]} == {("owner/model", file, "commit") for file in files}


def test_thresholds_and_features_are_those_of_the_calibration(tmp_path):
    """The file's weights have no digest to compare, so that its branches must be those."""
    features = {"mean": [0.5] * 9, "components": np.eye(9)[:2], "variances": [0.01] * 2}
    record = {
        "version": 2,
        "weights": dict.fromkeys(BRANCHES, "0123456789abcdef"),
        "images": 30,
        "patients": 20,
        "branches": {branch: {} for branch in BRANCHES},
        "features": {
            **{
                name: {
                    "shape": np.shape(values),
                    "float32": base64.b64encode(np.asarray(values, "<f4").tobytes()).decode(),
                }
                for name, values in features.items()
            },
            "noise": 0.01,
            "threshold": 2.0,
        },
    }
    record["branches"]["fusion"]["Mass"] = {
        "platt": {"slope": 2.0, "intercept": -1.0},
        "thresholds": dict.fromkeys(RULES),
    }
    text = json.dumps(record).encode()
    model = load(write_stand_in(tmp_path / "model", calibration_json=text))
    wanted = expected(IMAGES)
    for i, result in enumerate(model.predict(IMAGES)):
        logit = wanted["fusion"][i][LABELS.index("Mass")]
        assert result.calibrated["Mass"] == pytest.approx(expit(2 * logit - 1), abs=1e-5)
        distance = np.linalg.norm(wanted["pooled"][i] - 0.5) / 0.1 / 2
        assert result.distance == pytest.approx(distance, rel=1e-4)
    del record["weights"]["local"]
    out = write_stand_in(tmp_path / "other", calibration_json=json.dumps(record).encode())
    with pytest.raises(UserError, match=r"calibration.json is not of the branches in config.json"):
        load(out)
