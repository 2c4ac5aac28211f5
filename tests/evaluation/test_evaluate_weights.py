"""Anyone's network, from a PyTorch file to an evaluation's results, beside PyTorch itself."""

import csv
import json

import jax
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from agcnn_jax.data.pipeline import read_batch
from agcnn_jax.data.records import open_records
from agcnn_jax.data.splits import make_split
from agcnn_jax.data_prep import torch_weights
from agcnn_jax.evaluation.evaluate_weights import evaluate_weights
from agcnn_jax.evaluation.figures import files as figures
from agcnn_jax.interop import weights
from agcnn_jax.interop.source_format import CHESTXRAY14_FINDINGS, TORCHXRAYVISION_FINDINGS
from agcnn_jax.run import run as experiment_module
from agcnn_jax.run.lineage import Lineage
from agcnn_jax.runtime.devices import device_mesh
from agcnn_jax.runtime.errors import UserError
from tests.configs import demo
from tests.support.programs import run

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("quick_compilation")

STORED, SIDE = 64, 56  # the centre crop is not resized
MARGIN = (STORED - SIDE) // 2
# Channels, outputs, what wraps the names, mean and std of each kind of file.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
KINDS = {
    "CheXNet": (3, CHESTXRAY14_FINDINGS, "module.densenet121.", *IMAGENET),
    "torchxrayvision": (1, TORCHXRAYVISION_FINDINGS, "", (0.5,), (1 / 2048,)),
    "timm": (3, ("mass", "Pleural Thickening", "Tube"), "", *IMAGENET),
}


@pytest.fixture(scope="module")
def records(data_dir):
    return open_records(str(data_dir))


@pytest.fixture(scope="module")
def test_records(records):
    return make_split(records, "random", 0).test


@pytest.fixture(scope="module")
def images(records, test_records):
    return read_batch(records.images_and_labels(), test_records)["image"]


@pytest.fixture(autouse=True)
def without_figures(monkeypatch):
    monkeypatch.setattr(figures, "files", lambda evaluation: {})


@pytest.fixture(autouse=True, params=[1])
def devices(request, monkeypatch):
    monkeypatch.setattr(
        experiment_module, "device_mesh", lambda: device_mesh(jax.devices()[: request.param])
    )


def make_config(data_dir, **changes):
    config = demo.get_config()
    config.data.dir, config.data.protocol = str(data_dir), "random"
    config.input_size, config.eval_batch_size = SIDE, 16
    config.backbone, config.pooling = "densenet121", "max"  # the weights know better
    config.update_from_flattened_dict({key.replace("__", "."): v for key, v in changes.items()})
    return config


def make_network(channels, classes, images, mean, std, seed=0):
    """A network whose statistics fit these images, so that its probabilities vary."""
    from tests.parity import bridge, twin

    torch.manual_seed(seed)
    network = twin.ResNet((1, 1), 8, channels=channels, classes=classes)
    with torch.no_grad():
        for _, norm in bridge.norms(network):
            norm.momentum = 1.0
        inputs = normalised(images[:, MARGIN:-MARGIN, MARGIN:-MARGIN], mean, std)
        network.train().stages(inputs)
        network.eval()
        logits = network.head(list(network.stages(inputs).values())[-1].mean((2, 3)))
        gain = 1.5 / logits.std(0)
        network.head.bias.copy_(gain * (network.head.bias - logits.mean(0)))
        network.head.weight.mul_(gain[:, None])
    return network


def normalised(images, mean, std):
    gray = torch.from_numpy(np.ascontiguousarray(images, np.float32))[:, None] / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (mean, std))
    return (gray - mean) / std


def probabilities(network, images, mean, std):
    """PyTorch's, with average pooling before the linear layer."""
    with torch.no_grad():
        feature_map = list(network.stages(normalised(images, mean, std)).values())[-1]
        return torch.sigmoid(network.head(feature_map.mean((2, 3)))).numpy()


def convert(folder, networks, wrapper="", *options):
    paths = []
    for i, network in enumerate(networks):
        paths.append(folder / f"{i}.pth")
        state = {f"{wrapper}{key}": value for key, value in network.state_dict().items()}
        torch.save({"state_dict": state}, paths[-1])
    out = folder / "weights"
    arguments = ["--weights", *paths, "--backbone", "resnet_small", "--out", out, *options]
    torch_weights.main([str(argument) for argument in arguments])
    return out


def read_csv(path):
    with open(path, newline="") as file:
        header, *rows = csv.reader(file)
    return header, [row[0] for row in rows], np.array([row[1:] for row in rows], float)


def prob_columns(folder, branch):
    header, names, values = read_csv(folder / f"predictions_{branch}.csv")
    chosen = {
        column.removeprefix("prob_"): values[:, i]
        for i, column in enumerate(header[1:])
        if column.startswith("prob_")
    }
    return names, chosen


@pytest.mark.parametrize(
    "kind", ["CheXNet", "torchxrayvision", pytest.param("timm", marks=pytest.mark.slow)]
)
def test_a_network_beside_pytorch(kind, data_dir, records, test_records, images, tmp_path):
    channels, outputs, wrapper, mean, std = KINDS[kind]
    network = make_network(channels, len(outputs), images, mean, std)
    options = ["--classes", ",".join(outputs)] if kind == "timm" else []
    directory = convert(tmp_path, [network], wrapper, *options)
    table = evaluate_weights(make_config(data_dir), directory, {}, tmp_path / "out")

    expected = probabilities(network, images[:, MARGIN:-MARGIN, MARGIN:-MARGIN], mean, std)
    assert expected.std(axis=0).min() > 0.1
    spelling = {"mass": "Mass", "Pleural Thickening": "Pleural_Thickening"}
    place = {spelling.get(name, name): i for i, name in enumerate(outputs)}
    names, columns = prob_columns(tmp_path / "out", "global")
    assert names == list(records.image_ids[test_records])
    assert list(columns) == [label for label in records.labels if label in place]
    for label, column in columns.items():
        np.testing.assert_allclose(column, expected[:, place[label]], atol=2e-6)

    scores = json.loads((tmp_path / "out/auc.json").read_text())
    assert list(scores["branches"]) == ["global"]
    assert (scores["backbone"], scores["crops"]) == ("resnet_small", "centre")
    truth = records.label_matrix[test_records]
    for label, value in scores["branches"]["global"]["auc"].items():
        labels = truth[:, records.labels.index(label)]
        if value is None:
            assert not labels.any()
        else:
            theirs = roc_auc_score(labels, expected[:, place[label]])
            assert value == pytest.approx(theirs, abs=1e-9)

    unmatched = {
        "CheXNet": ["Labels without an output: No Finding."],
        "torchxrayvision": [
            "Labels without an output: No Finding.",
            "Outputs without a label: Lung Lesion, Fracture, Lung Opacity, Enlarged "
            "Cardiomediastinum.",
        ],
        "timm": ["Emphysema, Fibrosis, Hernia, No Finding.", "Outputs without a label: Tube."],
    }[kind]
    for text in (*unmatched, f"digest {weights.describe(directory)['digest']}"):
        assert text in table
    # What CheXNet saw of ChestX-ray14 says nothing about phantoms; the file's name does not
    # say what the others saw.
    known = "not known" if kind != "CheXNet" else f"0 of {len(test_records)}"
    assert f"Images trained on: {known}" in table


@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.slow), 4], indirect=True)
def test_ten_crops_beside_pytorch(data_dir, images, tmp_path):
    network = make_network(3, 14, images, *IMAGENET)
    directory = convert(tmp_path, [network])
    config = make_config(data_dir, eval__crops="ten")
    table = evaluate_weights(config, directory, {"eval.crops": "ten"}, tmp_path / "out")
    far = STORED - SIDE
    corners = [(0, 0), (far, 0), (0, far), (far, far), (far // 2, far // 2)]
    crops = [images[:, y : y + SIDE, x : x + SIDE] for x, y in corners]
    crops += [crop[:, :, ::-1] for crop in crops]
    expected = np.mean([probabilities(network, crop, *IMAGENET) for crop in crops], axis=0)
    _, columns = prob_columns(tmp_path / "out", "global")
    for finding, column in columns.items():
        place = CHESTXRAY14_FINDINGS.index(finding)
        np.testing.assert_allclose(column, expected[:, place], atol=2e-6)
    assert "averaged over ten crops" in table
    assert json.loads((tmp_path / "out/auc.json").read_text())["crops"] == "ten"


def test_the_three_files_of_an_agcnn(data_dir, images, tmp_path):
    from tests.parity import twin

    networks = [make_network(3, 14, images, *IMAGENET, seed=seed) for seed in (1, 2)]
    network = twin.AGCNN(lambda: networks[0], "avg", *IMAGENET)
    network["global"], network["local"] = networks
    network.eval()
    directory = convert(tmp_path, [*networks, network["fusion"]], "module.")
    evaluate_weights(make_config(data_dir, attention__tau=0.7), directory, {}, tmp_path / "out")
    inputs = torch.from_numpy(images[:, MARGIN:-MARGIN, MARGIN:-MARGIN].astype(np.float32))
    with torch.no_grad():
        feature_map, pooled_global, logits = network.branch("global", inputs)
        local_images, boxes = twin.attend(inputs, feature_map, tau=0.7)
        _, pooled_local, local_logits = network.branch("local", local_images)
        fused = network.fuse(pooled_global, pooled_local)
    expected = {"global": logits, "local": local_logits, "fusion": fused}
    for branch, values in expected.items():
        _, columns = prob_columns(tmp_path / "out", branch)
        for finding, column in columns.items():
            theirs = torch.sigmoid(values)[:, CHESTXRAY14_FINDINGS.index(finding)].numpy()
            np.testing.assert_allclose(column, theirs, atol=1e-5)
    # The phantoms' files are as large as the stored images.
    _, _, found = read_csv(tmp_path / "out/boxes.csv")
    np.testing.assert_array_equal(found, boxes + MARGIN)
    assert (tmp_path / "out/report.html").exists()


def test_images_that_the_weights_were_trained_on(data_dir, records, test_records, images, tmp_path):
    made = convert(tmp_path, [make_network(3, 14, images, *IMAGENET)])
    seen = records.image_ids[test_records][:3]
    lineage = Lineage({records.collection: dict.fromkeys(map(str, seen), "")})
    about = {**weights.describe(made), "lineage": lineage.to_json()}
    weights.save_weights(tmp_path / "known", weights.load_weights(made), about)
    config, out = make_config(data_dir), tmp_path / "out"
    with pytest.raises(UserError, match=rf"known was trained on 3 of the {len(test_records)} "):
        evaluate_weights(config, tmp_path / "known", {}, out)
    assert not out.exists()
    table = evaluate_weights(config, tmp_path / "known", {}, out, include_trained=True)
    assert f"Images trained on: 3 of {len(test_records)}" in table
    kept = json.loads((out / "lineage.json").read_text())
    assert kept["seen"] == lineage.to_json()["seen"]


@pytest.fixture(scope="module")
def directory(images, tmp_path_factory):
    """Converted weights of 14 outputs."""
    network = make_network(3, 14, images, *IMAGENET)
    return convert(tmp_path_factory.mktemp("refused"), [network])


class TestRefused:
    def refusal(self, config, directory, out, overrides=()):
        with pytest.raises(UserError) as refused:
            evaluate_weights(config, directory, dict.fromkeys(overrides), out)
        assert not list(out.glob("*.csv"))
        return str(refused.value)

    def test_no_weights(self, data_dir, tmp_path):
        text = self.refusal(make_config(data_dir), tmp_path / "none", tmp_path / "out")
        assert "no folder with a weights.json" in text
        assert "data_prep/torch_weights.py" in text

    def test_out_is_not_empty(self, data_dir, directory, tmp_path):
        (tmp_path / "notes.txt").write_text("mine")
        text = self.refusal(make_config(data_dir), directory, tmp_path)
        assert "is not empty" in text
        assert (tmp_path / "notes.txt").read_text() == "mine"

    def test_what_the_weights_or_nothing_decide(self, data_dir, directory, tmp_path):
        for changes, problem in (
            ({"backbone": "resnet50"}, "has 'resnet_small'; leave --config.backbone out"),
            ({"mean": (0.5,)}, "config.mean is (0.5,), but"),
            ({"learning_rate": (0.1,)}, "learning_rate has no effect"),
            ({"attention__tau": 0.5}, "attention.tau has no effect"),
            ({"data__split_seed": 3, "data__protocol": "lists"}, "split_seed has no effect"),
        ):
            config = make_config(data_dir, **changes)
            overrides = [key.replace("__", ".") for key in changes]
            assert problem in self.refusal(config, directory, tmp_path / "out", overrides)

    def test_a_description_that_was_changed(self, data_dir, directory, tmp_path):
        about = json.loads((directory / "weights.json").read_text())
        for changes, problem in (
            ({"mean": [0.5]}, "3 channels, but 1 numbers in mean"),
            ({"classes": None}, "--classes NAME,NAME"),
            ({"classes": ["Tube"] * 14}, "is a label of the data: Atelectasis"),
            ({"pooling": "median"}, "config.pooling is 'median'"),
        ):
            folder = tmp_path / "weights"
            folder.mkdir(exist_ok=True)
            (folder / "weights.json").write_text(json.dumps({**about, **changes}))
            assert problem in self.refusal(make_config(data_dir), folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--weights=w", "--config=tests/configs/demo.py"], "--weights and --out go together"),
        (["--out=o", "--config=tests/configs/demo.py"], "--weights and --out go together"),
        (["--weights=w", "--out=o"], "--config is missing"),
        (
            ["--weights=w", "--out=o", "--workdir=r", "--config=tests/configs/demo.py"],
            "exclude each",
        ),
        (["--weights=w", "--predictions=p", "--labels=l"], "--weights has no effect with"),
    ],
)
def test_options_that_do_not_go_together(options, problem):
    done = run("eval.py", *options, check=False)
    assert done.returncode == 2
    assert problem in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
