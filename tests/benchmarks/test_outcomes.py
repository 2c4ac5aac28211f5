"""Comparison of trainings over several seeds by benchmarks/outcomes.py."""

import json
import sys

import numpy as np
import pytest
from scipy import stats

from agcnn_jax.runtime.errors import UserError
from tests.support.programs import ROOT

sys.path.append(str(ROOT / "benchmarks"))
import outcomes

OURS, TWIN = [0.80, 0.82, 0.81], [0.79, 0.83, 0.84]
RECIPE = {
    "config": {"input_size": 64, "epochs": [2, 2, 1], "attention.cropper": "host"},
    "data": {"fingerprint": "f", "test_digest": "t"},
}


def scores(mean):
    auc = {"Mass": mean - 0.1, "Nodule": mean + 0.1, "Hernia": None}
    gains = {"global": 0, "local": -0.1, "fusion": 0.05 * mean}
    return {branch: {"auc": auc, "mean": mean + gain} for branch, gain in gains.items()}


def write_twin(folder, seed, mean, recipe=RECIPE):
    path = folder / f"seed_{seed}.json"
    found = {"seed": seed, "branches": scores(mean), "recipe": recipe, "machine": {"cores": 2}}
    path.write_text(json.dumps(found))
    return str(path)


def write_ours(folder, seed, mean, **changes):
    path = folder / f"resnet-seed{seed}.json"
    test = {
        part: {branch: one[part] for branch, one in scores(mean).items()}
        for part in ("mean", "auc")
    }
    config = RECIPE["config"] | {"seed": seed} | changes
    data = RECIPE["data"] | {"provenance": "phantoms"}
    path.write_text(json.dumps({"config": config, "data": data, "test": test}))
    return str(path)


def test_welchs_interval_by_hand():
    found = outcomes.compare(OURS, TWIN)
    # Variances 1e-4 and 7e-4: standard error sqrt(8e-4 / 3), and 64e-8 / (50e-8 / 2) degrees.
    half = stats.t.ppf(0.975, 2.56) * (8e-4 / 3) ** 0.5
    assert found["difference"] == pytest.approx(-0.01)
    assert found["interval"] == pytest.approx([-0.01 - half, -0.01 + half])
    assert found["ours"] == {
        "mean": pytest.approx(0.81),
        "deviation": pytest.approx(0.01),
        "seeds": 3,
    }


def test_what_is_detectable_is_found_in_four_of_five_experiments():
    shift, rng = outcomes.detectable(OURS, TWIN), np.random.default_rng(0)
    deviation = 0.02  # of both samples pooled: the root of the mean of 1e-4 and 7e-4
    ours, twin = rng.normal(0, deviation, (2, 3, 20000))
    found = stats.ttest_ind(ours + shift, twin).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.01)


def test_one_seed_has_no_interval():
    found = outcomes.compare([0.8], TWIN)
    assert (found["interval"], found["detectable"], found["ours"]["deviation"]) == (None,) * 3


def test_tables(tmp_path, monkeypatch, capsys):
    ours = [write_ours(tmp_path, seed, mean) for seed, mean in enumerate(OURS)]
    twin = [write_twin(tmp_path, seed, mean) for seed, mean in enumerate(TWIN)]
    out = tmp_path / "made" / "found.json"
    monkeypatch.setattr(
        sys, "argv", ["outcomes.py", "--ours", *ours, "--twin", *twin, "--out", str(out)]
    )
    outcomes.main()
    table = capsys.readouterr().out
    assert "| global | 0.8100 ± 0.0100 | 0.8200 ± 0.0265 | -0.0100 | -0.0674 to +0.0474 |" in table
    assert "| fusion minus global | 0.0405 ± 0.0005 | 0.0410 ± 0.0013 | -0.0005 |" in table
    assert out.with_suffix(".md").read_text() == table
    found = json.loads(out.read_text())
    assert found["mean_auc"]["ours"]["local"] == pytest.approx([0.70, 0.72, 0.71])
    assert found["findings"]["fusion"]["Mass"] == pytest.approx([0.71, 0.72])
    assert found["findings"]["fusion"]["Hernia"] == [None, None]


def test_what_differs_is_named(tmp_path):
    other = write_ours(tmp_path, 0, 0.8, input_size=32)
    with pytest.raises(UserError, match=r"config\.input_size is 32 there and 64 in --twin"):
        outcomes.read_ours(other, RECIPE)
    recipe = RECIPE | {"data": {"fingerprint": "another"}}
    with pytest.raises(UserError, match=r"data\.fingerprint is 'f' there and 'another'"):
        outcomes.read_ours(write_ours(tmp_path, 1, 0.8), recipe)
    device = write_ours(tmp_path, 2, 0.8, **{"attention.cropper": "device"})
    assert outcomes.read_ours(device, RECIPE)["seed"] == 2


@pytest.mark.parametrize(
    ("ours", "twin", "words"),
    [
        (["ours"], ["twin", "twin"], "--twin has a seed twice"),
        (["ours"], ["twin", "other"], "another config or data than"),
        (["nothing"], ["twin"], "nothing cannot be read"),
        (["twin"], ["twin"], "no result of an experiment"),
        (["ours"], ["ours"], "no file of benchmarks/train_twin.py"),
        (["ours"], ["twin", "--out", "table.md"], "ends in .json"),
    ],
)
def test_mistakes(tmp_path, monkeypatch, ours, twin, words):
    (tmp_path / "other").mkdir()
    paths = {
        "ours": write_ours(tmp_path, 0, 0.8),
        "twin": write_twin(tmp_path, 0, 0.8),
        "other": write_twin(tmp_path / "other", 1, 0.8, RECIPE | {"data": {}}),
    }
    arguments = [paths.get(word, word) for word in ("--ours", *ours, "--twin", *twin)]
    monkeypatch.setattr(sys, "argv", ["outcomes.py", *arguments])
    with pytest.raises(UserError, match=words):
        outcomes.main()
