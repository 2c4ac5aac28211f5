"""Measurements of other programs by benchmarks/starting.py and benchmarks/scoring.py."""

import csv
import sys

import numpy as np
import pytest

from tests.support.programs import ROOT

sys.path.append(str(ROOT / "benchmarks"))
import scoring
import starting

PROGRAM = """
import pathlib, sys, time
workdir = pathlib.Path(sys.argv[-1])
workdir.mkdir()
print({said!r}, flush=True)
(workdir / "metrics.jsonl").touch()
time.sleep(0.5)
(workdir / "metrics.jsonl").write_text("line")
time.sleep(60)
"""


@pytest.mark.parametrize(
    "said", ["", f"E0000 {starting.REFUSED} +prefer-no-gather is not supported"]
)
def test_first_step_is_the_logs_first_line(tmp_path, said):
    command = [sys.executable, "-c", PROGRAM.format(said=said)]
    seconds, refused = starting.first_step(command, tmp_path / "run", tmp_path)
    assert 0.5 < seconds < 30 and refused == bool(said)


def test_an_ended_program_is_reported(tmp_path):
    command = [sys.executable, "-c", "import sys; sys.exit('no data')"]
    with pytest.raises(SystemExit, match="ended before its second step:\nno data"):
        starting.first_step(command, tmp_path / "run", tmp_path)


def test_other_predictions(tmp_path):
    names = [f"{index}.png" for index in range(10)]
    header = ["Image Index", "prob_Mass", "prob_Nodule"]
    given = np.linspace(0, 1, 12).reshape(6, 2)
    scoring.write_predictions(tmp_path / "given.csv", header, names[:6], given)
    rows = ["Image Index,Finding Labels", *(f"{name},Mass" for name in names)]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    assert scoring.make_others(tmp_path / "given.csv", tmp_path / "labels.csv", tmp_path) == 6
    found = {}
    for name in ("compare", "validation"):
        first, *rows = csv.reader((tmp_path / f"{name}.csv").open())
        assert first == header
        found[name] = {row[0]: [float(value) for value in row[1:]] for row in rows}
    assert list(found["compare"]) == names[:6] and list(found["validation"]) == names[6:9]
    np.testing.assert_allclose(list(found["compare"].values()), given, atol=0.06)
