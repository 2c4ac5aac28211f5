import json
import shutil

import jax
import numpy as np
import pytest

from agcnn_jax.interop import weights
from agcnn_jax.run.lineage import lineage_of_names
from agcnn_jax.runtime.errors import UserError

SEEN = lineage_of_names(["00000013_005.png", "00000002_000.png"])
ABOUT = {
    "backbone": "resnet_small",
    "channels": 1,
    "branches": ["global", "local", "fusion"],
    "classes": ["A", "B"],
    "pooling": "avg",
    "mean": [0.5],
    "std": [0.25],
    "lineage": SEEN.to_json(),
}


def branch(seed):
    rng = np.random.default_rng(seed)
    return {"conv1": {"kernel": rng.random((3, 3, 1, 2), np.float32)}}


VARIABLES = {
    "params": {
        "global": {"backbone": branch(0), "head": {"bias": np.ones(2, np.float32)}},
        "local": {"backbone": branch(1), "head": {"bias": np.ones(2, np.float32)}},
        "fusion": {"head": {"bias": np.zeros(2, np.float32)}},
    },
    "batch_stats": {
        "global": {"backbone": branch(2)},
        "local": {"backbone": branch(3)},
        "fusion": {},
    },
}


@pytest.fixture
def folder(tmp_path):
    weights.save_weights(tmp_path / "w", VARIABLES, ABOUT)
    return tmp_path / "w"


def test_what_is_saved_comes_back(folder):
    assert weights.is_weights(folder)
    assert not weights.is_weights(folder.parent)
    assert ABOUT.items() <= weights.describe(folder).items()
    loaded = weights.load_weights(folder)
    jax.tree.map(np.testing.assert_array_equal, loaded, VARIABLES)
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(loaded))


@pytest.mark.parametrize(("name", "seed"), [("global", 0), ("local", 1)])
def test_backbone_of_a_branch(folder, name, seed):
    identity = {"backbone": "resnet_small", "channels": 1}
    loaded = weights.load_backbone(folder, identity, name)
    jax.tree.map(np.testing.assert_array_equal, loaded["params"], branch(seed))
    jax.tree.map(np.testing.assert_array_equal, loaded["batch_stats"], branch(2 + seed))


def test_a_single_network_serves_both_branches(tmp_path):
    single = {kind: {"global": tree["global"]} for kind, tree in VARIABLES.items()}
    weights.save_weights(tmp_path / "w", single, {**ABOUT, "branches": ["global"]})
    loaded = weights.load_backbone(tmp_path / "w", {}, "local")
    jax.tree.map(np.testing.assert_array_equal, loaded["params"], branch(0))


@pytest.mark.parametrize(
    ("identity", "message"),
    [
        ({"backbone": "resnet50"}, 'another backbone: "resnet_small" instead of "resnet50"'),
        ({"channels": 3}, r"another channels.*--config.mean='\(0.5,\)' --config.std='\(0.25,\)'"),
        ({"pooling": "max"}, "another pooling"),
        ({"labels": ["B", "A"]}, "another labels"),
    ],
)
def test_weights_of_something_else(folder, identity, message):
    with pytest.raises(UserError, match=message):
        weights.load_backbone(folder, identity)


def test_damaged_weights_are_named(folder):
    for path in (folder / weights.VARIABLES).rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(UserError, match=r"variables cannot be read.*convert the weights again"):
        weights.load_weights(folder)


def test_exchanged_weights_are_refused(folder, tmp_path):
    """The arrays of another folder, undamaged and of the same shapes."""
    other = jax.tree.map(np.copy, VARIABLES)
    other["params"]["local"]["head"]["bias"][1] = np.nextafter(np.float32(1), np.float32(2))
    weights.save_weights(tmp_path / "other", other, ABOUT)
    shutil.rmtree(folder / weights.VARIABLES)
    (tmp_path / "other" / weights.VARIABLES).rename(folder / weights.VARIABLES)
    with pytest.raises(UserError, match=r"variables holds other arrays.*convert the weights again"):
        weights.load_backbone(folder, {})


def change(folder, **values):
    path = folder / weights.DESCRIPTION
    about = {**json.loads(path.read_text()), **values}
    about = {key: value for key, value in about.items() if value is not None}
    path.write_text(json.dumps(about))


def test_lineage(folder):
    assert weights.lineage(folder) == SEEN
    change(folder, lineage={"seen": []})
    with pytest.raises(
        UserError, match=r"weights\.json holds no lineage; convert the weights again"
    ):
        weights.lineage(folder)
    change(folder, lineage=None)
    with pytest.raises(UserError, match=r"weights\.json has no lineage; convert the weights"):
        weights.load_weights(folder)


def test_the_earlier_format_is_refused(folder):
    change(folder, format=1)
    with pytest.raises(UserError, match=r"of format 1, .* reads 2; convert the weights again"):
        weights.load_weights(folder)


@pytest.mark.parametrize("text", ["{", "[]", "{}", json.dumps({"format": 99})])
def test_damaged_description_is_named(folder, text):
    (folder / weights.DESCRIPTION).write_text(text)
    with pytest.raises(UserError, match=r"weights\.json.*convert the weights again"):
        weights.describe(folder)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("channels", "1", "channels is '1'; it must be a whole number, at least 1"),
        ("classes", "AB", "classes is 'AB'; it must be a list of strings"),
        ("classes", ["A", 2], "classes is .*; it must be a list of strings"),
        (
            "branches",
            ["global", "lokal"],
            "branches is .*; it must be a list of strings, of AG-CNN",
        ),
        ("mean", 0.5, "mean is 0.5; it must be a list of numbers"),
        ("std", [0.0], "std is .*; it must be a list of numbers, one for each channel, above 0"),
        ("digest", 7, "digest is 7; it must be a string"),
    ],
)
def test_a_damaged_value_is_named(folder, name, value, words):
    change(folder, **{name: value})
    with pytest.raises(UserError, match=rf"weights\.json: {words}.*; convert the weights again"):
        weights.describe(folder)


def test_absent(tmp_path):
    with pytest.raises(UserError, match=r"weights\.json cannot be read"):
        weights.load_weights(tmp_path)


@pytest.mark.parametrize("backbone", ["resnet50", "densenet121"])
def test_the_command_that_gets_missing_weights(backbone):
    directory = weights.imagenet_directory(backbone)
    message = weights.missing_imagenet(backbone, directory)
    command = message.split("with: ")[1].split(" (or")[0]
    assert command.startswith("python data_prep/torch_weights.py ")
    from agcnn_jax.data_prep.torch_weights import parse_arguments

    options = parse_arguments(command.split()[2:])
    assert (options.backbone, str(options.out)) == (backbone, directory)
    assert "--config.init=random" in message
