"""Files of strangers: no module that they name is imported.

A module `evil` lies where Python finds it and leaves a marker when it is imported. Files that
describe checkpoints, weights and runs name its class, and are opened as the programs open them.
Opening a dataset is tested in `tests/data/test_records.py`.
"""

import contextlib
import json
import pickle
import re
import sys

import numpy as np
import pytest
from etils import epath

from agcnn_jax.config.saved import read_config
from agcnn_jax.interop import weights
from agcnn_jax.interop.import_weights import import_weights
from agcnn_jax.interop.read import read_tensor_file
from agcnn_jax.run.checkpoints import StageCheckpoints
from agcnn_jax.run.lineage import NOTHING
from agcnn_jax.runtime.errors import UserError
from tests.configs import demo
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
# `package.module.Class`, as handlers and types of arrays are written.
DOTTED = re.compile(r'"[A-Za-z_]\w*(\.\w+)+"')


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """A file that appears when the module `evil`, which is on the path, is imported."""
    folder = tmp_path / "modules"
    folder.mkdir()
    marker = folder / "imported"
    (folder / "evil.py").write_text(
        f"open({str(marker)!r}, 'w').close()\n"
        "class Foo:\n    def __new__(cls, *args, **kwargs):\n        return super().__new__(cls)\n"
    )
    monkeypatch.syspath_prepend(folder)
    sys.modules.pop("evil", None)  # of another test
    yield marker
    sys.modules.pop("evil", None)


@pytest.fixture
def never_imported(marker):
    """Fails the test if it has imported `evil`."""
    yield
    assert not marker.exists()
    assert "evil" not in sys.modules


@pytest.fixture
def torch():
    """PyTorch; asked for before `evil`, which a test that is skipped must not import."""
    return pytest.importorskip("torch")


@pytest.fixture
def evil(marker):
    """An object of `evil.Foo`, to be pickled."""
    import evil

    yield evil.Foo()


def forget(marker):
    """Return to the state before `evil` was imported."""
    del sys.modules["evil"]
    marker.unlink()


def test_an_import_leaves_the_marker(evil, marker):
    content = pickle.dumps(evil)
    forget(marker)
    pickle.loads(content)
    assert marker.exists()


class ImportsEvil:
    def __reduce__(self):
        return __import__, ("evil",)


@pytest.mark.usefixtures("never_imported")
class TestTensorFiles:
    @pytest.mark.parametrize("zipped", [True, False])
    @pytest.mark.parametrize("place", ["tensor", "beside", "whole"])
    def test_pickled(self, torch, tmp_path, evil, marker, zipped, place):
        state = {"fc.weight": torch.ones(2, 2)}
        content = {
            "tensor": {**state, "fc.bias": evil},
            "beside": {"state_dict": state, "optimizer": evil},
            "whole": evil,
        }[place]
        path = tmp_path / "a.pt"
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        forget(marker)
        with pytest.raises(UserError, match=r"a\.pt: holds Python objects besides tensors"):
            read_tensor_file(path)

    @pytest.mark.parametrize("protocol", [2, 4])
    def test_plain_pickles(self, torch, tmp_path, evil, marker, protocol):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": evil}, protocol))
        forget(marker)
        with pytest.raises(UserError, match=r"a\.pkl: "):
            read_tensor_file(tmp_path / "a.pkl")

    def test_a_pickled_call(self, tmp_path):
        pytest.importorskip("torch")
        path = tmp_path / "w.pth"
        path.write_bytes(pickle.dumps({"state_dict": ImportsEvil()}))
        with pytest.raises(UserError, match="holds Python objects besides tensors"):
            import_weights([str(path)], "resnet50", tmp_path / "out")

    def test_safetensors(self, tmp_path):
        numpy = pytest.importorskip("safetensors.numpy")
        about = {
            "backbone": "evil.Foo", "branch": "evil.Foo", "labels": ["evil.Foo"], "mean": [0.5],
            "std": [0.25], "pooling": "evil.Foo", "channels": 1, "model": "evil.Foo",
            "kind": "evil.Foo", "py/object": "evil.Foo",
        }  # fmt: skip
        path = tmp_path / "w.safetensors"
        metadata = {"agcnn_jax": json.dumps(about), "format": "evil.Foo", "class": "evil.Foo"}
        numpy.save_file({"evil.Foo": np.ones(3, np.float32)}, path, metadata)
        assert read_tensor_file(path).metadata == about
        with pytest.raises(UserError):
            import_weights([str(path)], "resnet50", tmp_path / "out")


def name_evil(value):
    """Replace every text in JSON values with the class's name."""
    if isinstance(value, dict):
        return {key: name_evil(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [name_evil(inner) for inner in value]
    return "evil.Foo" if isinstance(value, str) else value


def all_texts(text):
    return json.dumps(name_evil(json.loads(text)))


def dotted_names(text):
    return DOTTED.sub('"evil.Foo"', text)


def handlers(text):
    return json.dumps({**json.loads(text), "item_handlers": {"default": "evil.Foo"}})


def namedtuple(text):
    """Make Orbax's description of a tree one of named tuples, of a class of `evil`."""
    leaf = {"category": "custom", "clazz": "ValueMetadataEntry", "data": {"value_type": "evil.Foo"}}
    entry = {"key": "params", "value": leaf}
    tree = {"category": "namedtuple", "module": "evil", "clazz": "Foo", "entries": [entry]}
    return json.dumps({**json.loads(text), "value_metadata_tree": tree})


def descriptions(folder):
    """Return the text of each JSON file in a folder, by path."""
    found = {}
    for path in sorted(folder.rglob("*")):
        with contextlib.suppress(IsADirectoryError, ValueError):  # ValueError: an array
            text = path.read_text()
            json.loads(text)
            found[path] = text
    return found


@pytest.mark.usefixtures("never_imported")
class TestConvertedWeights:
    @pytest.mark.parametrize(
        ("file", "change"),
        [
            ("_METADATA", all_texts),
            ("_METADATA", lambda text: text.replace("np.ndarray", "evil.Foo")),
            ("_METADATA", namedtuple),
            ("_CHECKPOINT_METADATA", all_texts),
            ("_CHECKPOINT_METADATA", handlers),
        ],
        ids=["all texts", "types", "namedtuple", "all texts of the checkpoint", "handlers"],
    )
    def test_arrays(self, tmp_path, file, change):
        weights.save_weights(tmp_path / "w", VARIABLES, ABOUT)
        path = tmp_path / "w" / weights.VARIABLES / file
        before = path.read_text()
        path.write_text(change(before))
        assert path.read_text() != before
        assert "evil" in path.read_text()
        with contextlib.suppress(UserError):
            weights.load_weights(tmp_path / "w")

    @pytest.mark.parametrize("arrays", [False, True])
    def test_every_name(self, tmp_path, arrays):
        about = {
            **ABOUT, "backbone": "evil.Foo", "classes": ["evil.Foo"], "pooling": "evil.Foo",
            "kind": "evil.Foo", "source": "evil.Foo",
        }  # fmt: skip
        weights.save_weights(tmp_path / "w", VARIABLES, about)
        if arrays:
            files = descriptions(tmp_path / "w" / weights.VARIABLES)
            assert any(dotted_names(text) != text for text in files.values())
            for path, text in files.items():
                path.write_text(dotted_names(text))
        with contextlib.suppress(UserError):
            weights.load_backbone(tmp_path / "w", {"backbone": "evil.Foo"})

    def test_description(self, tmp_path):
        weights.save_weights(tmp_path / "w", VARIABLES, ABOUT)
        path = tmp_path / "w" / weights.DESCRIPTION
        path.write_text(json.dumps({**json.loads(path.read_text()), "backbone": "evil.Foo"}))
        with pytest.raises(UserError, match=r'has another backbone: "evil\.Foo"'):
            weights.load_backbone(tmp_path / "w", {"backbone": "resnet_small"})


@pytest.mark.usefixtures("never_imported")
class TestStageCheckpoints:
    @pytest.fixture
    def directory(self, tmp_path):
        directory = tmp_path / "checkpoints"
        with StageCheckpoints(epath.Path(directory), stages.IDENTITY) as checkpoints:
            stages.save(checkpoints, 1, 0.5)
        return directory

    def restore(self, directory):
        place = epath.Path(directory)
        with contextlib.suppress(UserError):
            stages.restore(place)
        with (
            contextlib.suppress(UserError),
            StageCheckpoints(place, stages.IDENTITY, read_only=True) as checkpoints,
        ):
            checkpoints.restore_best()

    def test_each_description_in_turn(self, directory):
        changed = 0
        for path, before in descriptions(directory).items():
            path.write_text(all_texts(before))
            changed += "evil" in path.read_text()
            self.restore(directory)
            path.write_text(before)
        assert changed >= 3
        assert stages.saved(epath.Path(directory)) == 1

    def test_all_dotted_names_at_once(self, directory):
        changed = 0
        for path, before in descriptions(directory).items():
            path.write_text(dotted_names(before))
            changed += path.read_text() != before
        assert changed >= 2
        self.restore(directory)


@pytest.mark.usefixtures("never_imported")
@pytest.mark.parametrize(
    "key", ["backbone", "pooling", "dtype", "strategy", "attention.statistic", "init"]
)
def test_the_config_of_a_run(tmp_path, key):
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
