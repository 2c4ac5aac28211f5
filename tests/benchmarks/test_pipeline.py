"""Figures that benchmarks/pipeline.py computes."""

import json
import sys
import types

import numpy as np

from agcnn_jax.data.records import open_records
from tests.support.programs import ROOT

sys.path.append(str(ROOT / "benchmarks"))
import pipeline


def test_eight_gpus_need_eight_times_their_fastest_step(tmp_path, monkeypatch):
    def row(part, rate):
        results = {"jax": {"images_per_second": rate}}
        facts = {"stage": "global", "dtype": "bfloat16", "backbone": "resnet50"}
        return {"part": part, "results": results, **facts}

    rows = [row("train", 1000.0), row("train", 1500.0), row("predict", 9000.0)]
    rows.append(row("train", 0.0) | {"results": {"jax": {"error": "out of memory"}}})
    (tmp_path / "gpu_h100_a.json").write_text(json.dumps({"device": "H100", "rows": rows}))
    monkeypatch.setattr(pipeline, "RESULTS", tmp_path)
    (need,) = pipeline.gpu_needs(read=5000.0)
    assert need == {
        "training": "8 x H100, resnet50, global, bfloat16",
        "needed": 12000,
        "processes_of_a_core": 3,  # 2.4, rounded up
    }


def test_an_epoch_of_many_names(tmp_path):
    data_dir = pipeline.make_many(80, tmp_path)
    found = pipeline.epoch(types.SimpleNamespace(data_dir=data_dir, batch_size=8))
    assert found["records"] == 80 and found["read"] > 0
    assert 0 < found["mib_imported"] <= found["mib_opened"] <= found["mib_after_epoch"]
    assert len(np.unique(open_records(data_dir).patient_ids)) == 20
