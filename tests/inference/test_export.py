"""An exported model comes back as it was, and its card says what a reader must know."""

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
import yaml

import agcnn_jax
from agcnn_jax import export
from agcnn_jax.inference.load import load_exported
from agcnn_jax.inference.load_jax import load_run
from agcnn_jax.inference.model_files import from_safetensors, to_safetensors
from agcnn_jax.interop.hub import parse_address
from agcnn_jax.interop.read import read_tensor_file
from agcnn_jax.run.lineage import digest
from agcnn_jax.runtime.errors import UserError
from tests.support.hub import HubHandler

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def run(*arguments):
    return export.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(workdir, tmp_path_factory):
    out = tmp_path_factory.mktemp("hub") / "new/model"
    assert run("--workdir", workdir, "--out", out, "--license", "cc-by-4.0") == 0
    assert [path.name for path in out.parent.iterdir()] == ["model"]
    return out


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "model")


def card(folder):
    _, header, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(header), text


def test_what_comes_back_is_the_run(workdir, folder):
    """Bit for bit, with its thresholds and lineage."""
    run, model = load_run(workdir), agcnn_jax.load(folder)
    images = np.random.default_rng(0).integers(0, 256, (8, 64, 64), np.uint8)
    expected, made = (one.predict_batch(images, heat_maps=True) for one in (run, model))
    assert set(expected) == set(made)
    for name, values in expected.items():
        np.testing.assert_array_equal(np.asarray(values), np.asarray(made[name]))
    for name in ("labels", "branches", "image_size", "digest", "lineage", "calibration", "recipe"):
        assert getattr(model, name) == getattr(run, name), name
    assert model.calibration is not None


def test_the_folder_is_the_hubs(folder):
    names = {"model.safetensors", "config.json", "calibration.json", "lineage.json", "README.md"}
    assert {path.name for path in folder.iterdir()} == names | {"SHA256SUMS"}
    done = subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=folder, check=False)
    assert done.returncode == 0
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["image_size"]) == ("agcnn", 64)
    # No folder of this machine is told.
    for path in folder.iterdir():
        assert str(folder.parents[2]).encode() not in path.read_bytes()


def test_the_names_of_patients_are_pointed_out(workdir, tmp_path, capsys):
    run("--workdir", workdir, "--out", tmp_path / "model")
    seen = sum(map(len, load_run(workdir).lineage.seen.values()))
    said = capsys.readouterr().out
    assert f"lineage.json names the {seen} images that the weights have seen, and their" in said
    assert "`lineage.json` names these images and their patients" in card(tmp_path / "model")[1]


def test_the_card(workdir, folder):
    header, text = card(folder)
    scores = json.loads((workdir / "eval/test/auc.json").read_text())
    assert (header["license"], header["library_name"]) == ("cc-by-4.0", "agcnn-jax")
    (result,) = header["model-index"][0]["results"]
    for metric, (name, branch) in zip(result["metrics"], scores["branches"].items(), strict=True):
        assert metric["name"].startswith(f"{name} branch")
        assert metric["value"] == pytest.approx(branch["mean"], abs=1e-4)
        low, high = branch["mean_interval"]
        assert f"interval {low:.3f} to {high:.3f}" in metric["name"]
    assert (workdir / "eval/test/auc.md").read_text().strip() in text
    data = json.loads((workdir / "data.json").read_text())
    for words in (
        "SYNTHETIC IMAGES",
        "official protocol, 85 images to train",
        "85 image(s) of ",
        f"images trained on: 0 of {data['test']}".capitalize(),
        "37 validation images of 4 patients",
        "Strategy G_L_F, seed 0; epochs 10, 9, 3; batch size 8, 8, 32; learning rate 0.15, 0.15,",
        "not a medical device",
        "fit for clinical use",
        "The weights: cc-by-4.0.",
        f"agcnn_jax {agcnn_jax.__version__}",
        "arXiv:1801.09927",
    ):
        assert words in text, words


@pytest.mark.parametrize(("collection", "nih"), [("ChestX-ray14", True), ("St Mary", False)])
def test_the_card_says_of_chestxray14_alone_where_its_labels_come_from(
    workdir, tmp_path, collection, nih
):
    copy = shutil.copytree(workdir, tmp_path / "run")
    for name, change in (
        ("data.json", {"synthetic": False}),
        ("lineage.json", {"collection": collection}),
    ):
        record = json.loads((copy / name).read_text()) | change
        (copy / name).write_text(json.dumps(record))
    run("--workdir", copy, "--out", tmp_path / "out")
    text = card(tmp_path / "out")[1]
    for words in ("extracted from radiology reports by a program", "come from one institution"):
        assert (words in text) == nih
    assert ("labelled is for whoever collected them to say" in text) != nih


def test_a_card_without_an_evaluation_of_these_weights(workdir, tmp_path):
    """Scores of other weights, such as those before a stage was trained again, are left out."""
    copy = shutil.copytree(workdir, tmp_path / "run")
    path = copy / "eval/test/auc.json"
    scores = json.loads(path.read_text())
    scores["weights"]["fusion"] = "0" * 16
    path.write_text(json.dumps(scores))
    (copy / "calibration.json").unlink()
    run("--workdir", copy, "--out", tmp_path / "out")
    header, text = card(tmp_path / "out")
    assert "model-index" not in header
    assert (header["license"], header["license_name"]) == ("other", "not-stated")
    for words in (
        "have not been scored",
        "who also occur in training: 0",
        "has not stated a licence",
        "not calibrated",
    ):
        assert words in text, words
    assert "Intervals say" not in text
    assert agcnn_jax.load(tmp_path / "out").calibration is None


def places(value, path=()):
    """The place of each value in nested JSON, of lists the first entry only."""
    if path:
        yield path
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value[:1] if isinstance(value, list) else ())
    )
    for name, one in inner:
        yield from places(one, (*path, name))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["config.json", "data.json", "lineage.json", "calibration.json", "eval/test/auc.json",
     "stages/1_global/result.json", "stages/3_fusion/result.json"],
)  # fmt: skip
def test_a_damaged_value_anywhere_in_a_run_is_one_line(workdir, tmp_path, name):
    """Or does not matter; never a traceback, and no folder that is not complete."""
    copy, out = shutil.copytree(workdir, tmp_path / "run"), tmp_path / "out"
    path = copy / name
    written = path.read_text()
    generator = np.random.default_rng(0)
    found = list(places(json.loads(written)))
    for place in [found[i] for i in generator.permutation(len(found))[:12]]:
        for bad in (None, "x", [], {}, -1, True, float("nan"), 10**400):
            record = inner = json.loads(written)
            for part in place[:-1]:
                inner = inner[part]
            inner[place[-1]] = bad
            path.write_text(json.dumps(record))
            try:
                run("--workdir", copy, "--out", out)
            except UserError as error:
                assert "\n" not in str(error)
                assert not out.exists()
            else:
                agcnn_jax.load(out)
                shutil.rmtree(out)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "calibration.json"])
def test_a_changed_file_is_refused(copy, name):
    path = copy / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"model/{name} was changed or is damaged"):
        agcnn_jax.load(copy)


@pytest.mark.parametrize("name", ["model.safetensors", "lineage.json", "SHA256SUMS"])
def test_a_missing_file_is_refused(copy, name):
    (copy / name).unlink()
    with pytest.raises(UserError, match=f"model/{name} cannot be read: No such file"):
        agcnn_jax.load(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda sums: sums.replace("config.json", "../config.json"), "lists other files"),
        (lambda sums: "", "does not list model.safetensors"),
        (lambda sums: sums[:-20], "lists other files"),
    ],
)
def test_checksums_of_something_else(copy, change, message):
    path = copy / "SHA256SUMS"
    path.write_text(change(path.read_text()))
    with pytest.raises(UserError, match=message):
        agcnn_jax.load(copy)


def rewritten(folder, **files):
    from agcnn_jax.inference.model_files import read_folder, write_folder

    changed = {name.replace("_", "."): content for name, content in files.items()}
    out = folder.with_name("changed")
    write_folder(out, {**read_folder(folder), **changed})
    return out


def test_files_that_do_not_belong_together(copy):
    """With checksums that fit, but another config or other weights."""
    config = json.loads((copy / "config.json").read_text())
    for change, words in (
        ({"digest": "0" * 16}, " does not fit the weights"),
        ({"format": 1}, " is of format 1, but this program reads 2; export the model again"),
        ({"format": "1"}, ": format is '1'; it must be a whole number"),
        ({"labels": 3}, ": labels is 3; it must be a list of strings"),
        ({"labels": config["labels"][1:]}, " does not fit the weights"),
        ({"image_size": 100_000}, ": image_size is 100000; it must be .* at most 4096"),
        ({"image_size": float("inf")}, ": image_size is inf"),
        ({"config": None}, ": config is None; it must be an object"),
    ):
        out = rewritten(copy, config_json=json.dumps({**config, **change}).encode())
        with pytest.raises(UserError, match=rf"config\.json{words}"):
            load_exported(out)
        shutil.rmtree(out)
    calibration = json.loads((copy / "calibration.json").read_text())
    out = rewritten(copy, calibration_json=json.dumps({**calibration, "version": 9}).encode())
    with pytest.raises(
        UserError, match=r"calibration\.json is of version 9, .* download the folder"
    ):
        load_exported(out)
    shutil.rmtree(out)
    out = rewritten(copy, model_safetensors=b"no weights")
    with pytest.raises(UserError, match="holds no AG-CNN"):
        load_exported(out)


@pytest.mark.parametrize("change", ["shape", "name", "kind", "infinite", "branch", "backbone"])
def test_weights_of_another_network(copy, change):
    """With digests that fit."""
    config = json.loads((copy / "config.json").read_text())
    variables = from_safetensors((copy / "model.safetensors").read_bytes(), "")
    head = variables["params"]["global"]["head"]
    if change == "shape":
        head["kernel"] = head["kernel"][:5]
    elif change == "name":
        head["weight"] = head.pop("kernel")
    elif change == "kind":
        head["kernel"] = head["kernel"].astype(np.int64)
    elif change == "infinite":
        head["kernel"] = np.full_like(head["kernel"], np.inf)
    elif change == "branch":
        for tree in variables.values():
            del tree["local"]
    else:
        config["config"]["backbone"] = "resnet50"
    config["digest"] = digest(variables)
    out = rewritten(
        copy,
        config_json=json.dumps(config).encode(),
        model_safetensors=to_safetensors(variables),
    )
    with pytest.raises(UserError, match=r"config.json does not fit the weights"):
        load_exported(out)


@pytest.mark.parametrize(
    "names",
    [
        ["params.global", "params.global.head.bias"],
        ["params.global.head.bias", "params.global"],  # safetensors sorts by size
        ["params"],
        ["params.global.head.bias", "batch_stats"],
    ],
)
def test_a_tensor_that_is_a_folder_too(names):
    from safetensors.numpy import save

    for last in (1, 9):
        sizes = [*range(2, 2 + len(names) - 1), last]
        tensors = {n: np.ones(size, np.float32) for n, size in zip(names, sizes, strict=True)}
        with pytest.raises(UserError, match=r"w\.safetensors holds no AG-CNN \(.*; copy or"):
            from_safetensors(save(tensors), "w.safetensors")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "SHA256SUMS"])
def test_what_is_no_file_is_not_read(copy, name):
    (copy / name).unlink()
    os.mkfifo(copy / name)
    with pytest.raises(UserError, match=f"{name} is no file"):
        load_exported(copy)


@pytest.mark.parametrize(
    ("name", "message"),
    [("Mass", "2 outputs are named 'Mass'"), ("=1+1", "formula"), ("a\nb", "formula")],
)
def test_labels_that_no_table_can_hold(copy, name, message):
    config = json.loads((copy / "config.json").read_text())
    labels = config["labels"]
    labels[labels.index("Mass") - 1] = name
    out = rewritten(copy, config_json=json.dumps({**config, "labels": labels}).encode())
    with pytest.raises(UserError, match=message):
        load_exported(out)


def test_an_edited_card_changes_nothing(copy, folder):
    (copy / "README.md").write_text("mine")
    (copy / ".gitattributes").write_text("the hub's")
    assert agcnn_jax.load(copy).digest == agcnn_jax.load(folder).digest


def test_out_and_options(workdir, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("mine")
    with pytest.raises(UserError, match="out is not empty"):
        run("--workdir", workdir, "--out", tmp_path / "out")
    with pytest.raises(UserError, match="nothing is trained"):
        run("--workdir", tmp_path / "none", "--out", tmp_path / "new")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written: Not a directory"):
        run("--workdir", workdir, "--out", tmp_path / "file/new")
    with pytest.raises(UserError, match="--branch belongs to --format torch"):
        run("--workdir", workdir, "--out", tmp_path / "new", "--branch", "local")
    with pytest.raises(UserError, match="--license belongs to the card"):
        run("--workdir", workdir, "--out", tmp_path / "new", "--format=torch", "--license=mit")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "out"]


def test_format_torch(workdir, tmp_path):
    from agcnn_jax.data_prep import torch_weights

    run("--workdir", workdir, "--out", tmp_path / "a.safetensors", "--format", "torch")
    torch_weights.main(["--export", str(workdir), "--out", str(tmp_path / "b.safetensors")])
    first, second = (read_tensor_file(tmp_path / f"{name}.safetensors") for name in "ab")
    assert first.metadata == second.metadata
    assert set(first.tensors) == set(second.tensors) >= {"fusion.fc.weight"}
    for name, array in first.tensors.items():
        np.testing.assert_array_equal(array, second.tensors[name])


class Hub(HubHandler):
    """Serves the files of `folder` as `owner/model` at `main` and COMMIT."""

    folder = None

    def answer(self, body):
        # The hub answers /api requests too, which the client does without.
        owner, name, _, revision, file = (self.path.split("/")[1:] + [""] * 3)[:5]
        path, error = self.folder / file, None
        if owner != "owner":
            error = "RepoNotFound"
        elif revision not in ("main", COMMIT):
            error = "RevisionNotFound"
        elif name == "empty" or not path.exists():
            error = "EntryNotFound"
        if error:
            self.refuse(error)
            return
        content = path.read_bytes()
        self.begin(len(content), COMMIT, file)
        if body:
            self.wfile.write(content)


@pytest.fixture
def hub(copy):
    handler = type("Answers", (Hub,), {"folder": copy})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


PROGRAM = """
import sys
import agcnn_jax
from agcnn_jax.runtime import errors

def main():
    for address in sys.argv[1:]:
        try:
            print(agcnn_jax.load(address).digest)
        except errors.UserError as error:
            print(error)

errors.run(main)
"""


def test_download(hub, folder, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "home")}
    environment |= {"NO_PROXY": "127.0.0.1", "PYTHONPATH": "."}

    addresses = ("hf://owner/model", f"hf://owner/model@{COMMIT}", "hf://no/model",
                 "hf://owner/model@none", "hf://owner/empty")  # fmt: skip
    done = subprocess.run(
        [sys.executable, "tests/support/tiny.py", tmp_path / "program.py", *addresses],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    digest = load_exported(folder).digest
    for line, expected in zip(
        done.stdout.splitlines(),
        (
            digest,
            digest,
            "hf://no/model: the hub has no such model; check the name, or log in",
            "hf://owner/model@none: owner/model has no such revision as none",
            "hf://owner/empty: it has no file SHA256SUMS; give a model that python -m",
        ),
        strict=True,
    ):
        assert line.startswith(expected)


@pytest.mark.parametrize(
    "address", ["hf://model", "hf://a/b/c", "hf://owner/model@", "hf://", "hf://a/.."]
)
def test_no_address(address):
    with pytest.raises(UserError, match=r"give hf://OWNER/NAME\[@REVISION\]"):
        parse_address(address)
