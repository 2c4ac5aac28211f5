"""The command line, from files to converted weights."""

import json

import jax
import numpy as np
import pytest

from agcnn_jax.data_prep import torch_weights
from agcnn_jax.interop import weights
from agcnn_jax.interop.source_format import CHESTXRAY14_FINDINGS
from agcnn_jax.run.lineage import CHESTXRAY14, Lineage
from agcnn_jax.runtime.errors import UserError

SEEN = Lineage({"phantoms": {"00000001_000.png": "1"}}, frozenset({CHESTXRAY14}))


def run(*arguments):
    return torch_weights.main([str(argument) for argument in arguments])


def test_one_network(tmp_path, file, small_state, capsys):
    out = tmp_path / "weights/small"
    assert run("--weights", file, "--backbone", "resnet_small", "--out", out) == 0
    about = weights.describe(out)
    assert about["classes"] == list(CHESTXRAY14_FINDINGS)
    assert about["source"] == str(file)
    assert (about["pooling"], about["channels"], about["used"]) == ("avg", 3, len(small_state))
    loaded = weights.load_backbone(out, {"backbone": "resnet_small", "channels": 3})
    np.testing.assert_array_equal(
        loaded["batch_stats"]["layer2_0"]["downsample_bn"]["mean"],
        small_state["layer2.0.downsample.1.running_mean"],
    )
    printed = capsys.readouterr().out
    assert f"--config.init={out}" in printed
    assert about["files"][0]["sha256"] in printed
    assert sorted(path.name for path in out.parent.iterdir()) == ["small"]


def test_pickled_file_and_what_is_left_out(tmp_path, networks, capsys):
    import torch

    path = tmp_path / "m.pth.tar"
    network = networks("resnet_small")
    torch.save({"epoch": 1, "state_dict": network.state_dict()}, path)
    run("--weights", path, "--backbone", "resnet_small", "--out", tmp_path / "w")
    about = weights.describe(tmp_path / "w")
    assert about["used"] + len(about["left_out"]) == len(network.state_dict()) + 1
    printed = capsys.readouterr().out
    for name in about["left_out"]:
        assert name in printed


def test_three_files_of_an_agcnn(tmp_path, networks):
    torch = pytest.importorskip("torch")
    from tests.parity.twin import Fusion

    parts = [networks("resnet_small", seed=seed) for seed in (1, 2)]
    parts.append(Fusion(parts[0].head.in_features, 14))
    paths = [tmp_path / f"AG_CNN_{name}.pkl" for name in ("Global", "Local", "Fusion")]
    for part, path in zip(parts, paths, strict=True):
        state = {f"module.{key}": value for key, value in part.state_dict().items()}
        torch.save(state, path, _use_new_zipfile_serialization=False)
    out = tmp_path / "w"
    run("--weights", *paths, "--backbone", "resnet_small", "--out", out)
    variables = weights.load_weights(out)
    for name, part in zip(("global", "local"), parts, strict=False):
        np.testing.assert_array_equal(
            variables["params"][name]["head"]["kernel"], part.fc.weight.detach().numpy().T
        )
    np.testing.assert_array_equal(
        variables["params"]["fusion"]["head"]["kernel"], parts[2].fc.weight.detach().numpy().T
    )
    assert weights.describe(out)["branches"] == ["global", "local", "fusion"]
    assert len(weights.describe(out)["files"]) == 3
    with pytest.raises(UserError, match=r"AG_CNN_Fusion.pkl.*missing: fc.weight.*|conv1.weight"):
        run("--weights", *paths[::-1], "--backbone", "resnet_small", "--out", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_nothing_is_left_of_a_failure(tmp_path, small_state):
    from safetensors.numpy import save_file

    save_file({**small_state, "extra": np.ones(1, np.float32)}, tmp_path / "bad.safetensors")
    with pytest.raises(UserError, match="extra: extra"):
        run("--weights", tmp_path / "bad.safetensors", "--backbone", "resnet_small",
            "--out", tmp_path / "w")  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["bad.safetensors"]


def test_out_must_be_empty(tmp_path, file):
    (tmp_path / "w").mkdir()
    run("--weights", file, "--backbone", "resnet_small", "--out", tmp_path / "w")
    before = (tmp_path / "w" / weights.DESCRIPTION).read_text()
    with pytest.raises(UserError, match=r"--out .*w is not empty"):
        run("--weights", file, "--backbone", "resnet_small", "--out", tmp_path / "w")
    assert (tmp_path / "w" / weights.DESCRIPTION).read_text() == before
    with pytest.raises(UserError, match="not empty"):
        run("--weights", file, "--backbone", "resnet_small", "--out", file)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", "a.pth", "--out", "w"], "--backbone is missing"),
        (["--weights", "a.pth", "--backbone", "vgg16", "--out", "w"], "vgg16"),
        (["--weights", "none.pth", "--backbone", "resnet50", "--out", "w"], "none.pth cannot"),
        (["--weights", "a/none.pth", "--backbone", "resnet50", "--out", "w"], "none.pth cannot"),
        (["--weights", "a", "b", "--backbone", "resnet50", "--out", "w"], "2 entries"),
        (["--out", "w"], "either --weights"),
        (["--weights", "a", "--export", "b", "--out", "w"], "either --weights"),
        (["--weights", "a", "--backbone", "resnet50"], "--out"),
        (["--weights", "a", "--backbone", "resnet50", "--branch", "all", "--out", "w"],
         "--branch belongs to --export"),
        (["--export", "a", "--backbone", "resnet50", "--out", "w"], "--backbone belongs"),
        (["--export", "a", "--trained_on", "none", "--out", "w"], "--trained_on belongs"),
        (["--weights", "a.pth", "--backbone", "resnet50", "--revision", "main", "--out", "w"],
         "--revision main is for models on the hub"),
    ],
)  # fmt: skip
def test_mistakes(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        run(*arguments)
    assert not list(tmp_path.iterdir())


def test_an_export_comes_back_with_its_description(tmp_path, small_state):
    """Only the metadata of the export tell the scaling of this one-channel network."""
    from safetensors.numpy import save_file

    about = {"branch": "global", "labels": ["A"] * 14, "pooling": "max", "mean": [0.5],
             "std": [0.25], "lineage": SEEN.to_json()}  # fmt: skip
    state = {**small_state, "conv1.weight": small_state["conv1.weight"][:, :1].copy()}
    save_file(state, tmp_path / "e.safetensors", {"agcnn_jax": json.dumps(about)})
    run("--weights", tmp_path / "e.safetensors", "--backbone", "resnet_small",
        "--out", tmp_path / "w")  # fmt: skip
    found = weights.describe(tmp_path / "w")
    assert (found["mean"], found["pooling"]) == ([0.5], "max")
    loaded = weights.load_weights(tmp_path / "w")
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(loaded))
    assert weights.lineage(tmp_path / "w") == SEEN
    assert "1 image(s) of phantoms" in found["trained_on"]
    with pytest.raises(UserError, match=r"--trained_on: e.safetensors already says"):
        run("--weights", tmp_path / "e.safetensors", "--backbone", "resnet_small",
            "--trained_on", "none", "--out", tmp_path / "x")  # fmt: skip
    del about["lineage"]
    save_file(state, tmp_path / "old.safetensors", {"agcnn_jax": json.dumps(about)})
    with pytest.raises(UserError, match=r"old.safetensors does not say .*; export it again"):
        run("--weights", tmp_path / "old.safetensors", "--backbone", "resnet_small",
            "--out", tmp_path / "x")  # fmt: skip
    assert not (tmp_path / "x").exists()
