"""Loading a run or converted weights, and predicting as an evaluation does."""

import csv
import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from scipy.special import expit

from agcnn_jax.data.labels import FINDINGS, LABELS
from agcnn_jax.data.pipeline import read_batch
from agcnn_jax.data.records import open_records
from agcnn_jax.data.splits import make_split
from agcnn_jax.inference.load_jax import load_converted, load_run
from agcnn_jax.interop import weights
from agcnn_jax.models.agcnn import BRANCHES
from agcnn_jax.run.lineage import lineage_of_names
from agcnn_jax.runtime.errors import UserError
from tests.support.programs import run


@pytest.fixture(scope="module")
def model(workdir):
    return load_run(workdir)


@pytest.fixture(scope="module")
def stored(data_dir):
    """The test images, uint8 `[N, S, S]`."""
    records = open_records(data_dir)
    test = make_split(records, "official", 0).test
    return read_batch(records.images_and_labels(), test)["image"]


def table(workdir, name):
    with open(workdir / "eval/test" / name, newline="") as file:
        return list(csv.DictReader(file))


def test_probabilities_are_those_of_an_evaluation(workdir, model, stored):
    """The last batch is smaller than the others and no multiple of the devices."""
    assert len(stored) % 8
    parts = [model.predict_batch(stored[i : i + 16]) for i in range(0, len(stored), 16)]
    for branch in BRANCHES:
        made = expit(np.concatenate([np.asarray(part[branch]) for part in parts]))
        rows = table(workdir, f"predictions_{branch}.csv")
        expected = [[float(row[f"prob_{label}"]) for label in model.labels] for row in rows]
        np.testing.assert_allclose(made, expected, rtol=0, atol=1e-6)
        assert np.ptp(made) > 0.1
    # 64 stored pixels are 64 pixels of the file, of which the input's 56 are the centre.
    boxes = np.concatenate([np.asarray(part["boxes"]) for part in parts]) + 4
    sides = ("xmin", "ymin", "xmax", "ymax")
    expected = [[int(row[side]) for side in sides] for row in table(workdir, "boxes.csv")]
    np.testing.assert_array_equal(boxes, expected)


def test_heat_maps_and_features_when_asked(model, stored):
    plain, full = model.predict_batch(stored[:8]), model.predict_batch(stored[:8], heat_maps=True)
    assert set(full) - set(plain) == {"heat_maps"}
    for name, values in plain.items():
        np.testing.assert_allclose(np.asarray(values), np.asarray(full[name]), atol=1e-5)
    maps, pooled = np.asarray(full["heat_maps"]), np.asarray(full["pooled"])
    assert maps.shape == (8, 56, 56)
    np.testing.assert_array_equal((maps.min((1, 2)), maps.max((1, 2))), [[0] * 8, [1] * 8])
    # The global branch's head reads the pooled features.
    head = model.variables["params"]["global"]["head"]
    made = pooled @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(made, np.asarray(full["global"]), rtol=1e-4, atol=1e-4)
    # The box surrounds what is above tau, of which the largest region is a part.
    for heat, (xmin, ymin, xmax, ymax) in zip(maps, np.asarray(full["boxes"]), strict=True):
        assert (heat[ymin:ymax, xmin:xmax] > model.recipe.tau).any()


def test_what_a_run_says_about_itself(model, data_dir):
    assert (model.labels, model.findings) == (LABELS, FINDINGS)
    assert dataclasses.replace(model, labels=("", "No Finding")).findings == ("No Finding",)
    assert (model.branches, model.backbone, model.image_size) == (BRANCHES, "resnet_small", 64)
    assert model.calibration is not None and set(model.calibration.branches) == set(BRANCHES)
    records = open_records(data_dir)
    train = make_split(records, "official", 0).train
    assert set(model.lineage.seen[records.collection]) == set(records.image_ids[train].tolist())


def test_other_settings_of_the_process_change_nothing(workdir, model, stored):
    expected = model.predict_batch(stored[:8])
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        other = load_run(workdir).predict_batch(stored[:8])
    for name, values in expected.items():
        assert values.dtype == other[name].dtype
        np.testing.assert_array_equal(np.asarray(values), np.asarray(other[name]))


def test_images_of_another_size_or_kind_are_refused(model):
    for images in (np.zeros((1, 56, 56), np.uint8), np.zeros((1, 64, 64), np.float32)):
        with pytest.raises(ValueError, match=r"give uint8 of shape \(B, 64, 64\)"):
            model.predict_batch(images)


def test_no_run(tmp_path, workdir):
    with pytest.raises(UserError, match=r"nothing is trained in --workdir .*train first"):
        load_run(tmp_path)
    copy = shutil.copytree(workdir, tmp_path / "run", ignore=shutil.ignore_patterns("stages"))
    with pytest.raises(UserError, match="no stage has finished"):
        load_run(copy)
    (copy / "config.json").write_text('{"seed": 0, "of_tomorrow": 1}')
    with pytest.raises(
        UserError, match=r"config.of_tomorrow is a key that nothing reads.*train again"
    ):
        load_run(copy)
    config = json.loads((workdir / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "input_size": 3}))
    with pytest.raises(UserError, match=r"config.json is not as .*: config.input_size is 3"):
        load_run(copy)
    del config["remat"]
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        UserError, match=r"config.json is not as .*: the config has no remat.*train again"
    ):
        load_run(copy)


def test_converted_weights(tmp_path, model):
    """A single network is the global branch; an output without a name is no finding."""
    alone = {kind: {"global": tree["global"]} for kind, tree in model.variables.items()}
    names = ["", *LABELS[1:]]
    about = {
        "backbone": "resnet_small",
        "branches": ["global"],
        "channels": 1,
        "classes": names,
        "mean": [0.5],
        "std": [0.25],
        "pooling": "avg",
        "lineage": lineage_of_names(["00000013_005.png"]).to_json(),
    }
    weights.save_weights(tmp_path / "w", alone, about)
    loaded = load_converted(tmp_path / "w")
    assert (loaded.branches, loaded.image_size) == (("global",), 256)
    assert loaded.labels == tuple(names) and loaded.findings == FINDINGS[1:]
    assert loaded.calibration is None and loaded.recipe.input_size == 224
    assert loaded.lineage == lineage_of_names(["00000013_005.png"])
    outputs = loaded.predict_batch(np.zeros((1, 256, 256), np.uint8))
    assert set(outputs) == {"global", "pooled"} and outputs["global"].shape == (1, 15)
    weights.save_weights(tmp_path / "nameless", alone, about | {"classes": None})
    with pytest.raises(UserError, match="does not name the outputs"):
        load_converted(tmp_path / "nameless")
    for name, message in ((LABELS[2], f"2 outputs are named '{LABELS[2]}'"), ("@a", "formula")):
        changed = about | {"classes": ["", name, *LABELS[2:]]}
        weights.save_weights(tmp_path / name, alone, changed)
        with pytest.raises(UserError, match=message):
            load_converted(tmp_path / name)


def test_loading_needs_no_packages_for_training():
    blocked = ("array_record", "grain", "ml_collections", "tensorboardX", "tensorflow_datasets")
    run(
        "-c",
        f"import sys; sys.modules.update(dict.fromkeys({blocked}))\n"
        "import agcnn_jax.inference.load\n"
        "assert 'agcnn_jax.training.loop' not in sys.modules",
    )
