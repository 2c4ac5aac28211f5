"""Records that a run keeps of its stages and its data, read back."""

import json

import pytest
from etils import epath

from agcnn_jax.config.saved import read_data
from agcnn_jax.run.stage_results import read_result
from agcnn_jax.runtime.errors import UserError

RESULT = {
    "best_step": 7,
    "best_val_auc_mean": 0.6,
    "val_auc_findings": 2,
    "weights": {"global": "1" * 16},
    "started_from": {},
    "lineage": "2" * 16,
    "image_size": 64,
    "val_auc": {"global": {"Mass": 0.6, "Hernia": None}},
}
DATA = {
    "provenance": "films",
    "synthetic": False,
    "fingerprint": "f",
    "protocol": "official",
    "images": 9,
    "train": 5,
    "validation": 2,
    "test": 2,
    "shared_patients": 0,
}


@pytest.fixture
def result(tmp_path):
    (tmp_path / "checkpoints/7").mkdir(parents=True)

    def read(**changes):
        (tmp_path / "result.json").write_text(json.dumps(RESULT | changes))
        return read_result(epath.Path(tmp_path))

    return read


@pytest.mark.parametrize("missing", [None, "best_val_auc_mean"])
def test_a_result_is_read(result, missing):
    """It may be that no finding has an AUC."""
    assert result(**({missing: None} if missing else {})) == RESULT | (
        {missing: None} if missing else {}
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"best_step": "7"}, "best_step is '7'; it must be a whole number, at least 1"),
        ({"best_step": True}, "best_step is True"),
        ({"best_step": "../7"}, "best_step is '../7'"),
        ({"best_val_auc_mean": float("nan")}, "best_val_auc_mean is nan; it must be a number, at"),
        ({"best_val_auc_mean": 60}, "best_val_auc_mean is 60"),
        ({"val_auc_findings": -1}, "val_auc_findings is -1"),
        ({"weights": ["1"]}, "weights is .*; it must be an object"),
        ({"started_from": None}, "started_from is None"),
        ({"lineage": 2}, "lineage is 2; it must be a string"),
        ({"image_size": 0.5}, "image_size is 0.5; it must be a whole number"),
        ({"val_auc": {"global": 0.6}}, "val_auc: global is 0.6; it must be an object"),
        ({"val_auc": {"global": {"Mass": "0.6"}}}, "val_auc, global: Mass is '0.6'; it must be"),
    ],
)
def test_a_damaged_result_is_named(result, changes, words):
    with pytest.raises(UserError, match=rf"result\.json.*{words}.*; delete it and run the train"):
        result(**changes)


@pytest.mark.parametrize("name", RESULT)
def test_a_result_that_lacks_an_entry_is_refused(tmp_path, result, name):
    result()
    rest = {key: value for key, value in RESULT.items() if key != name}
    (tmp_path / "result.json").write_text(json.dumps(rest))
    with pytest.raises(UserError, match=rf"result\.json has no {name}; delete it"):
        read_result(epath.Path(tmp_path))


@pytest.mark.parametrize("name", DATA)
def test_damaged_data_are_named(tmp_path, name):
    (tmp_path / "data.json").write_text(json.dumps(DATA))
    assert read_data(epath.Path(tmp_path)) == DATA
    (tmp_path / "data.json").write_text(json.dumps(DATA | {name: [1]}))
    with pytest.raises(UserError, match=rf"data\.json: {name} is \[1\]; it must be .*; restore it"):
        read_data(epath.Path(tmp_path))
