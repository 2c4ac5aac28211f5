"""The text of docs/performance.md is that of the files of benchmarks/results/."""

import json
import sys

from tests.support.programs import ROOT

sys.path.append(str(ROOT / "benchmarks"))
import performance


def test_the_page_is_that_of_the_results():
    assert performance.PAGE.read_text() == performance.page()


def test_a_table_by_hand(tmp_path, monkeypatch):
    results = {
        "jax": {"images_per_second": 7.5, "slowest": 7.0, "fastest": 8.0, "share_of_products": 0.5},
        "torch_eager": {"images_per_second": 5.0, "slowest": 5.0, "fastest": 5.0, "ratio": 1.5},
        "torch_compile": {"error": "broken"},
    }
    row = {"part": "train", "stage": "local", "dtype": "float32", "batch": 16, "results": results}
    row |= {"backbone": "resnet50", "peaks": {"float32_tflops": 0.2}}
    made_with = {"device": "cpu", "cores": 2, "python": "3", "jax": "1", "torch": "2"}
    (tmp_path / "cpu_x.json").write_text(json.dumps(made_with | {"rows": [row]}))
    (tmp_path / "words").write_text("# Title\n@cpu_*.json\n@gpu_*.json\n")
    monkeypatch.setattr(performance, "RESULTS", tmp_path)
    monkeypatch.setattr(performance, "WORDS", tmp_path / "words")
    page = performance.page()
    assert (
        "| training step, local, float32 | 16 | here | 7.5 | 7 to 8 |  | 50% of products |" in page
    )
    assert "| training step, local, float32 | 16 | PyTorch | 5 | 5 to 5 | 1.50 |  |" in page
    assert "broken" not in page
    assert page.endswith("Not yet measured.\n")


def test_measurements_and_further_lists_by_hand():
    read = {"median": 23020.7, "lowest": 9.5, "highest": 26723.9}
    found = {"what": "speed", "note": "busy", "machine": {"cores": 2}, "versions": {"jax": "1"}}
    found |= {"rows": [{"cores": 2, "read": read, "flat": True}], "epochs": [{"records": 112120}]}
    assert performance.plain(found).splitlines() == [
        "cores 2; jax 1. Note: busy.",
        "",
        "| cores | read | flat |",
        "| --- | --- | --- |",
        "| 2 | 23,021 (9.5 to 26,724) | True |",
        "",
        "| records |",
        "| --- |",
        "| 112,120 |",
    ]
