"""Names of classes in what is opened: never imported, whatever becomes of the files otherwise.

A module `evil` lies where Python finds it and leaves a mark when it is imported. All names of
classes in the files that describe checkpoints, weights and runs are replaced with one of its; the
files are then opened as the programs do. Opening a dataset is tested in `data/test_records.py`.
"""

import contextlib
import json
import pickle
import re
import sys

import numpy as np
import pytest
from etils import epath

from agcnn_jax.interop import weights
from agcnn_jax.interop.import_weights import import_weights
from agcnn_jax.run.checkpoints import StageCheckpoints
from agcnn_jax.run.saved_config import read_config
from agcnn_jax.runtime.errors import UserError
from configs import demo

STATE = {"params": {"kernel": np.ones((2, 3), np.float32)}, "step": np.int32(4)}
IDENTITY = {"backbone": "resnet_small"}
# `package.module.Class`, as handlers and types of arrays are written.
DOTTED = re.compile(r'"[A-Za-z_]\w*(\.\w+)+"')


class Position:
    """Stands for the pipeline's iterator."""

    def get_state(self):
        return {"next_index": 1}

    def set_state(self, state):
        pass


@pytest.fixture
def imported(tmp_path, monkeypatch):
    """Tells whether `evil` has been imported."""
    marker = tmp_path / "imported"
    folder = tmp_path / "modules"
    folder.mkdir()
    text = f"open({str(marker)!r}, 'w').close()\nclass Foo:\n    def __init__(self, *a): pass\n"
    (folder / "evil.py").write_text(text)
    monkeypatch.syspath_prepend(folder)
    sys.modules.pop("evil", None)  # of another test
    yield marker.exists
    sys.modules.pop("evil", None)


def poison(folder):
    """Replace the classes that a folder's JSON files name; return how many files named any."""
    count = 0
    for path in sorted(folder.rglob("*")):
        with contextlib.suppress(ValueError):  # not text: the arrays
            text = path.read_text() if path.is_file() else ""
            changed = DOTTED.sub('"evil.Foo"', text)
            count += changed != text
            if changed != text:
                path.write_text(changed)
    return count


def test_the_mark_is_left_by_an_import(imported):
    assert not imported()
    __import__("evil")
    assert imported()


def test_checkpoints(imported, tmp_path):
    place = epath.Path(tmp_path / "checkpoints")
    with StageCheckpoints(place) as checkpoints:
        checkpoints.save(1, STATE, Position(), IDENTITY)
        checkpoints.add_score(1, 0.5, 1)
    assert poison(tmp_path / "checkpoints") >= 2
    with contextlib.suppress(UserError), StageCheckpoints(place) as checkpoints:
        checkpoints.restore(1, STATE, IDENTITY, Position())
    with contextlib.suppress(UserError), StageCheckpoints(place, read_only=True) as checkpoints:
        checkpoints.restore_best(IDENTITY)
    assert not imported()


@pytest.mark.parametrize("what", ["arrays", "description"])
def test_converted_weights(imported, tmp_path, what):
    about = {
        "backbone": "evil.Foo", "branches": ["global"], "channels": 1, "classes": ["evil.Foo"],
        "lineage": {"seen": {}, "unlisted": []}, "mean": [0.5], "pooling": "evil.Foo",
        "std": [0.25], "kind": "evil.Foo", "source": "evil.Foo",
    }  # fmt: skip
    variables = {
        "params": {"global": {"backbone": STATE["params"]}},
        "batch_stats": {"global": {"backbone": STATE["params"]}},
    }
    weights.save_weights(tmp_path / "weights", variables, about)
    if what == "arrays":
        assert poison(tmp_path / "weights" / weights.VARIABLES)
    with contextlib.suppress(UserError):
        weights.load_backbone(tmp_path / "weights", {"backbone": "evil.Foo"})
    assert not imported()


def test_safetensors(imported, tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    about = {
        "backbone": "evil.Foo", "branch": "evil.Foo", "labels": ["evil.Foo"], "mean": [0.5],
        "std": [0.25], "pooling": "evil.Foo", "channels": 1, "model": "evil.Foo",
    }  # fmt: skip
    path = tmp_path / "w.safetensors"
    metadata = {"agcnn_jax": json.dumps(about), "format": "evil.Foo"}
    numpy.save_file({"evil.Foo": np.ones(3, np.float32)}, path, metadata)
    with pytest.raises(UserError):
        import_weights([str(path)], "resnet50", tmp_path / "out")
    assert not imported()


class Call:
    def __reduce__(self):
        return __import__, ("evil",)


def test_pickled_weights(imported, tmp_path):
    pytest.importorskip("torch")
    path = tmp_path / "w.pth"
    path.write_bytes(pickle.dumps({"state_dict": Call()}))
    with pytest.raises(UserError, match="holds Python objects besides tensors"):
        import_weights([str(path)], "resnet50", tmp_path / "out")
    assert not imported()


@pytest.mark.parametrize(
    "key", ["backbone", "pooling", "dtype", "strategy", "attention.statistic", "init"]
)
def test_a_runs_config(imported, tmp_path, key):
    config = demo.get_config()
    with config.unlocked():
        parts = key.split(".")
        (config[parts[0]] if len(parts) == 2 else config)[parts[-1]] = "evil.Foo"
    (tmp_path / "config.json").write_text(config.to_json())
    if key == "init":  # any path
        read_config(epath.Path(tmp_path))
    else:
        with pytest.raises(UserError, match=f"config.{key} is 'evil.Foo'"):
            read_config(epath.Path(tmp_path))
    assert not imported()
