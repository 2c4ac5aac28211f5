"""Export of a run's weights to a file that PyTorch loads, and the way back."""

import json

import flax.struct
import grain
import jax
import numpy as np
import pytest
from etils import epath

from agcnn_jax.config.saved import write_json
from agcnn_jax.data_prep import torch_weights
from agcnn_jax.interop.export import state_of
from agcnn_jax.interop.read import read_tensor_file
from agcnn_jax.models.agcnn import AGCNN, BRANCHES
from agcnn_jax.models.registry import make_backbone
from agcnn_jax.run import lineage, stage_results
from agcnn_jax.run.checkpoints import StageCheckpoints
from agcnn_jax.runtime.errors import UserError
from tests.configs import demo
from tests.support.small_steps import random_variables

LABELS = ["A", "B", "No Finding"]
SEEN = lineage.lineage_of_names(["00000013_005.png", "00000002_000.png"])


@flax.struct.dataclass
class State:
    step: np.ndarray
    variables: dict


@pytest.fixture(scope="module")
def variables():
    model = AGCNN(make_backbone("resnet_small"), len(LABELS), mean=(0.5,), std=(0.25,))
    return jax.tree.map(np.asarray, random_variables(model, 32))


def make_run(workdir, variables, branches):
    """Write a workdir in which the stages of `branches` have finished."""
    config = demo.get_config()
    workdir.mkdir(parents=True)
    write_json(workdir / "config.json", json.loads(config.to_json()))
    identity = {"backbone": "resnet_small", "pooling": "max", "channels": 1, "labels": LABELS}
    identity["lineage"] = SEEN.digest
    batches = iter(grain.MapDataset.range(3).to_iter_dataset())
    for number, branch in enumerate(branches, start=1):
        folder = epath.Path(workdir) / "stages" / f"{number}_{branch}"
        trained = {kind: {branch: tree[branch]} for kind, tree in variables.items()}
        with StageCheckpoints(folder / "checkpoints", identity) as checkpoints:
            state = State(np.int32(7), trained)
            checkpoints.save(7, state, batches)
            checkpoints.add_score(7, 0.6, 2)
        result = {"best_step": 7, "best_val_auc_mean": 0.6, "val_auc_findings": 2}
        result |= {"image_size": 256, "val_auc": {}}
        result["weights"] = stage_results.digests(trained, [branch])
        result["lineage"] = SEEN.digest
        result["started_from"] = stage_results.digests(variables, branches[: number - 1])
        write_json(folder / "result.json", result)
    lineage.write(epath.Path(workdir), SEEN, None)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, variables):
    workdir = tmp_path_factory.mktemp("run") / "demo"
    make_run(workdir, variables, BRANCHES)
    return workdir


def run(*arguments):
    return torch_weights.main([str(argument) for argument in arguments])


@pytest.mark.parametrize("branch", [*BRANCHES, "all"])
def test_tensors_are_the_runs(workdir, tmp_path, variables, branch):
    out = tmp_path / "new/branch.safetensors"
    assert run("--export", workdir, "--branch", branch, "--out", out) == 0
    file = read_tensor_file(out)
    expected = state_of(variables, branch, "resnet_small", 1)
    assert set(file.tensors) == set(expected)
    for key, array in expected.items():
        np.testing.assert_array_equal(file.tensors[key], array)
    assert file.metadata["labels"] == LABELS
    assert file.metadata["std"] == [0.25]
    assert lineage.Lineage.from_json(file.metadata["lineage"]) == SEEN
    assert file.metadata["tau"] == demo.get_config().attention.tau
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_the_twin_loads_the_whole(workdir, tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    from tests.parity import twin

    run("--export", workdir, "--out", tmp_path / "all.safetensors")
    small = make_backbone("resnet_small")
    network = twin.AGCNN(lambda: twin.ResNet(small.blocks, small.width, channels=1, classes=3))
    network.load_state_dict(load_file(tmp_path / "all.safetensors"), strict=True)
    assert isinstance(network["global"].fc.weight, torch.Tensor)


def test_a_branch_comes_back_as_it_was(workdir, tmp_path, variables):
    from agcnn_jax.interop import weights

    run("--export", workdir, "--branch", "local", "--out", tmp_path / "l.safetensors")
    run("--weights", tmp_path / "l.safetensors", "--backbone", "resnet_small",
        "--out", tmp_path / "w")  # fmt: skip
    loaded = weights.load_weights(tmp_path / "w")
    jax.tree.map(
        np.testing.assert_array_equal, loaded["params"]["global"], variables["params"]["local"]
    )
    about = weights.describe(tmp_path / "w")
    assert (about["classes"], about["mean"]) == (LABELS, [0.5])
    assert about["pooling"] == demo.get_config().pooling


def test_unfinished_runs(tmp_path, variables):
    out = tmp_path / "x.safetensors"
    with pytest.raises(UserError, match="nothing is trained there"):
        run("--export", tmp_path / "none", "--out", out)
    make_run(tmp_path / "empty", variables, [])
    with pytest.raises(UserError, match="no stage has finished"):
        run("--export", tmp_path / "empty", "--out", out)
    make_run(tmp_path / "partial", variables, ["global"])
    with pytest.raises(UserError, match=r"its local and fusion branch.*--branch global"):
        run("--export", tmp_path / "partial", "--out", out)
    assert not out.exists()


def test_a_float64_run_by_a_float32_program(tmp_path, variables):
    """The digests cover the saved float64 weights; the file is float32 like any other."""
    with jax.enable_x64(True):
        double = jax.tree.map(lambda leaf: leaf.astype(np.float64), variables)
        make_run(tmp_path / "run", double, BRANCHES)
    out = tmp_path / "x.safetensors"
    assert run("--export", tmp_path / "run", "--branch", "local", "--out", out) == 0
    expected = state_of(variables, "local", "resnet_small", 1)
    for key, array in read_tensor_file(out).tensors.items():
        np.testing.assert_array_equal(array, expected[key])
        assert array.dtype == expected[key].dtype


def test_out(workdir, tmp_path):
    with pytest.raises(UserError, match="give it that suffix"):
        run("--export", workdir, "--out", tmp_path / "x.pth")
    (tmp_path / "x.safetensors").write_text("mine")
    with pytest.raises(UserError, match="exists"):
        run("--export", workdir, "--out", tmp_path / "x.safetensors")
    assert (tmp_path / "x.safetensors").read_text() == "mine"
