import hashlib
import json
import pickle
import sys

import numpy as np
import pytest

from agcnn_jax.interop.read import METADATA_KEY, read_tensor_file
from agcnn_jax.runtime.errors import UserError

ARRAYS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(3, np.float32)}


def torch_file(path, content, **options):
    torch = pytest.importorskip("torch")
    torch.save(content, path, **options)
    return path


def torch_tensors():
    torch = pytest.importorskip("torch")
    return {key: torch.from_numpy(array) for key, array in ARRAYS.items()}


def check(file):
    assert list(file.tensors) == list(ARRAYS)
    for key, array in ARRAYS.items():
        np.testing.assert_array_equal(file.tensors[key], array)


def test_safetensors_needs_no_torch(tmp_path, monkeypatch):
    from safetensors.numpy import save_file

    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / "a.safetensors"
    save_file(ARRAYS, path, {"format": "pt", METADATA_KEY: json.dumps({"branch": "global"})})
    file = read_tensor_file(path)
    check(file)
    assert file.metadata == {"branch": "global"}
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("zipped", [True, False])
def test_state_dict(tmp_path, zipped):
    # Files of PyTorch before 1.6, such as CheXNet's, are not zip archives.
    check(
        read_tensor_file(
            torch_file(tmp_path / "a.pth", torch_tensors(), _use_new_zipfile_serialization=zipped)
        )
    )


@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoint_with_training_state_beside(tmp_path, zipped):
    content = {
        "epoch": 3,
        "state_dict": torch_tensors(),
        "best_loss": np.float64(0.25),
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999)}]},
    }
    path = torch_file(tmp_path / "a.pth.tar", content, _use_new_zipfile_serialization=zipped)
    file = read_tensor_file(path)
    check(file)
    assert file.other_entries == ("epoch", "best_loss", "optimizer")


def test_bfloat16_becomes_float32(tmp_path):
    torch = pytest.importorskip("torch")
    path = torch_file(tmp_path / "a.pth", {"a": torch.ones(2, dtype=torch.bfloat16)})
    assert read_tensor_file(path).tensors["a"].dtype == np.float32


class Surprise:
    def __reduce__(self):
        return (open, ("surprise", "w"))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_refused_and_never_run(tmp_path, monkeypatch, zipped):
    monkeypatch.chdir(tmp_path)
    path = torch_file(tmp_path / "a.pth", {"a": Surprise()}, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"a\.pth: holds Python objects.*state_dict"):
        read_tensor_file(path)
    assert not (tmp_path / "surprise").exists()


def test_plain_pickle_is_never_loaded(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(Surprise()))
    with pytest.raises(UserError, match=r"a\.pkl"):
        read_tensor_file(path)
    assert not (tmp_path / "surprise").exists()


def test_whole_module_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    path = torch_file(tmp_path / "whole.pt", torch.nn.Linear(2, 2))
    with pytest.raises(UserError, match=r"torch\.nn\.modules\.linear\.Linear.*state_dict\(\)"):
        read_tensor_file(path)


def test_pickled_file_without_torch(tmp_path, monkeypatch):
    path = tmp_path / "a.pth"
    path.write_bytes(b"PK\x03\x04" + bytes(50))
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"install torch .*make install EXTRA=parity"):
        read_tensor_file(path)


@pytest.mark.parametrize("content", [[1, 2], {"a": 3}, {}, {"state_dict": {"a": "text"}}])
def test_no_state_dict(tmp_path, content):
    with pytest.raises(UserError, match=r"a\.pth.*state_dict"):
        read_tensor_file(torch_file(tmp_path / "a.pth", content))


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"hello, world, this is text"])
def test_not_a_checkpoint(tmp_path, content):
    path = tmp_path / "a.bin"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.bin: not a PyTorch checkpoint"):
        read_tensor_file(path)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"none\.pth cannot be read: No such file"):
        read_tensor_file(tmp_path / "none.pth")


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_truncated(tmp_path, keep):
    from safetensors.numpy import save_file

    whole = tmp_path / "whole.safetensors"
    save_file({"a": np.zeros(1000, np.float32)}, whole)
    torch_file(tmp_path / "whole.pth", torch_tensors())
    for path in (whole, tmp_path / "whole.pth"):
        content = path.read_bytes()
        path.write_bytes(content[: int(keep * len(content))])
        with pytest.raises(UserError, match=path.name):
            read_tensor_file(path)
