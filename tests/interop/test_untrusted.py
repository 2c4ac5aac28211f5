"""Weights of strangers: no module that they name is imported."""

import contextlib
import json
import pickle
import sys

import numpy as np
import pytest
from etils import epath

from agcnn_jax.interop import weights
from agcnn_jax.interop.read import read_tensor_file
from agcnn_jax.run.checkpoints import StageCheckpoints
from agcnn_jax.run.lineage import NOTHING
from agcnn_jax.runtime.errors import UserError
from tests.run import test_checkpoints as stages

ABOUT = {
    "backbone": "resnet_small",
    "channels": 1,
    "branches": ["global"],
    "classes": None,
    "pooling": "avg",
    "mean": [0.5],
    "std": [0.25],
    "lineage": NOTHING.to_json(),
}
VARIABLES = {
    "params": {"global": {"backbone": {"kernel": np.ones((3, 2), np.float32)}}},
    "batch_stats": {"global": {"backbone": {"mean": np.zeros(2, np.float32)}}},
}


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """A file that appears when the module `evil` is imported, as it could be from here."""
    marker = tmp_path / "marker"
    (tmp_path / "evil.py").write_text(
        f"open({str(marker)!r}, 'w').close()\n"
        "class Foo:\n    def __new__(cls, *args, **kwargs):\n        return super().__new__(cls)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield marker
    sys.modules.pop("evil", None)


@pytest.fixture
def evil(marker):
    """An object of that module, to be pickled."""
    import evil

    found = evil.Foo()
    marker.unlink()
    yield found


def forget():
    """As in a process that has not seen the module."""
    del sys.modules["evil"]


def test_the_marker_works(evil, marker):
    content = pickle.dumps(evil)
    forget()
    pickle.loads(content)
    assert marker.exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["tensor", "beside", "whole"])
def test_pickled_files(tmp_path, evil, marker, zipped, place):
    torch = pytest.importorskip("torch")
    state = {"fc.weight": torch.ones(2, 2)}
    content = {
        "tensor": {**state, "fc.bias": evil},
        "beside": {"state_dict": state, "optimizer": evil},
        "whole": evil,
    }[place]
    path = tmp_path / "a.pt"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    forget()
    with pytest.raises(UserError, match=r"a\.pt: holds Python objects besides tensors"):
        read_tensor_file(path)
    assert not marker.exists()
    assert "evil" not in sys.modules


@pytest.mark.parametrize("protocol", [2, 4])
def test_plain_pickles(tmp_path, evil, marker, protocol):
    pytest.importorskip("torch")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": evil}, protocol))
    forget()
    with pytest.raises(UserError, match=r"a\.pkl: "):
        read_tensor_file(tmp_path / "a.pkl")
    assert not marker.exists()


def test_safetensors(tmp_path, marker):
    from safetensors.numpy import save_file

    metadata = {"agcnn_jax": json.dumps({"kind": "evil.Foo", "py/object": "evil.Foo"})}
    metadata |= {"format": "evil", "class": "evil.Foo"}
    save_file({"evil.Foo": np.ones(1, np.float32)}, tmp_path / "a.safetensors", metadata)
    assert read_tensor_file(tmp_path / "a.safetensors").metadata["kind"] == "evil.Foo"
    assert not marker.exists()
    assert "evil" not in sys.modules


def name_evil(value):
    """Put the class's name wherever JSON has a text that names something."""
    if isinstance(value, dict):
        return {key: name_evil(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [name_evil(inner) for inner in value]
    return "evil.Foo" if isinstance(value, str) else value


def handlers(text):
    return json.dumps({**json.loads(text), "item_handlers": {"default": "evil.Foo"}})


def namedtuple(text):
    """Orbax's description of a tree as one of named tuples, of a class of that module."""
    leaf = {"category": "custom", "clazz": "ValueMetadataEntry", "data": {"value_type": "evil.Foo"}}
    entry = {"key": "params", "value": leaf}
    tree = {"category": "namedtuple", "module": "evil", "clazz": "Foo", "entries": [entry]}
    return json.dumps({**json.loads(text), "value_metadata_tree": tree})


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("_METADATA", lambda text: json.dumps(name_evil(json.loads(text)))),
        ("_METADATA", lambda text: text.replace("np.ndarray", "evil.Foo")),
        ("_METADATA", namedtuple),
        ("_CHECKPOINT_METADATA", lambda text: json.dumps(name_evil(json.loads(text)))),
        ("_CHECKPOINT_METADATA", handlers),
    ],
    ids=["all texts", "types", "namedtuple", "all texts of the checkpoint", "handlers"],
)
def test_converted_weights(tmp_path, marker, file, change):
    weights.save_weights(tmp_path / "w", VARIABLES, ABOUT)
    path = tmp_path / "w" / weights.VARIABLES / file
    before = path.read_text()
    path.write_text(change(before))
    assert path.read_text() != before
    assert "evil" in path.read_text()
    with contextlib.suppress(UserError):
        weights.load_weights(tmp_path / "w")
    assert not marker.exists()
    assert "evil" not in sys.modules


def test_descriptions(tmp_path, marker):
    weights.save_weights(tmp_path / "w", VARIABLES, ABOUT)
    path = tmp_path / "w" / weights.DESCRIPTION
    path.write_text(json.dumps({**json.loads(path.read_text()), "backbone": "evil.Foo"}))
    with pytest.raises(UserError, match=r'of another backbone: "evil\.Foo"'):
        weights.load_backbone(tmp_path / "w", {"backbone": "resnet_small"})
    assert not marker.exists()


def test_checkpoints_of_a_stage(tmp_path, marker):
    """Every description in it, one after the other."""
    directory = epath.Path(tmp_path / "checkpoints")
    with StageCheckpoints(directory) as checkpoints:
        stages.save(checkpoints, 1, 0.5)
    changed = 0
    for path in sorted((tmp_path / "checkpoints").rglob("*")):
        try:
            before = path.read_text()
            described = json.loads(before)
        except (IsADirectoryError, ValueError):  # an array
            continue
        path.write_text(json.dumps(name_evil(described)))
        changed += "evil" in path.read_text()
        with contextlib.suppress(UserError):
            stages.restore(directory)
        with (
            contextlib.suppress(UserError),
            StageCheckpoints(directory, read_only=True) as checkpoints,
        ):
            checkpoints.restore_best(stages.IDENTITY)
        path.write_text(before)
    assert changed >= 3
    assert not marker.exists()
    assert "evil" not in sys.modules
    assert stages.saved(directory) == 1
