"""Figures of benchmarks/outcome_speed.py."""

import json
import os
import sys

import pytest

from tests.support.programs import ROOT, run

pytest.importorskip("torch")
sys.path.append(str(ROOT / "benchmarks"))
import outcome_speed as speed


def test_medians_by_hand():
    turns = {
        "ours": [(8.0, 16.0), (16.0, 32.0), (4.0, 8.0)],
        "twin": [(24.0, 48.0), (16.0, 32.0), (20.0, 40.0)],
    }
    seconds = {side: [speed.Seconds(*turn) for turn in each] for side, each in turns.items()}
    row = speed.compare(seconds, images=80)
    assert row == {
        "ours_clock_ms": 100.0,
        "twin_clock_ms": 250.0,
        "clock_ratio": 3.0,  # of 3, 1 and 5, not of the medians
        "ours_cores_ms": 200.0,
        "twin_cores_ms": 500.0,
        "cores_ratio": 3.0,
    }
    assert "| local | 100.0 | 200.0 | 250.0 | 500.0 | 3.0 | 3.0 |" in speed.as_markdown(
        {"local": row}
    )


@pytest.mark.slow
def test_all_stages_and_prediction(data_dir, tmp_path):
    out = tmp_path / "speed.json"
    options = ("data.protocol=patient", f"data.dir={data_dir}", "input_size=32", "batch_size=8")
    keys = [f"--config.{option}" for option in (*options, "eval_batch_size=8")]
    config = ("--config", "tests/configs/demo.py", "--rounds=1", "--steps=1", "--out", out)
    one_device = os.environ | {"XLA_FLAGS": ""}
    done = run("benchmarks/outcome_speed.py", *config, *keys, env=one_device)
    rows = json.loads(out.read_text())["rows"]
    assert list(rows) == ["1_global", "2_local", "3_fusion", "prediction"]
    assert all(value > 0 for row in rows.values() for value in row.values())
    assert done.stdout.count("| 2_local |") == 1
