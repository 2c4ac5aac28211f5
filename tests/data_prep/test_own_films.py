"""From a folder of films and a table to a report, by the commands that docs/own_films.md gives."""

import csv
import json
import os
import re
import shlex

import numpy as np
import pytest

from agcnn_jax.data.records import open_records
from tests.data_prep.film_files import make_films, prepare, write_table
from tests.data_prep.nih_files import prepare as prepare_nih
from tests.support.programs import ROOT, run

ENVIRONMENT = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
FEW_STEPS = ("--config.max_steps=20", "--config.batch_size=(8,8,8)")
SMALL = ("--config=tests/configs/demo.py", "--config.input_size=32", *FEW_STEPS)
SUFFIXES = (".png", ".jpg", ".dcm", "")


def commands_of(page):
    """Yield the commands of a page, as lists of arguments without `python`."""
    for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("python "):
                yield shlex.split(line)[1:]


@pytest.mark.slow
def test_the_commands_of_the_page(tmp_path):
    """60 films of all kinds in nested folders, two with each base name, and missing labels."""
    rng = np.random.default_rng(0)
    names = [f"{i // 2:04d}/visit {i % 2}/{i // 8}{SUFFIXES[i // 2 % 4]}" for i in range(60)]
    names = [name if name.endswith(SUFFIXES[:3]) else f"{name} dicom" for name in names]
    make_films(tmp_path / "films", names)
    labels = rng.choice(["1", "0", "", "-1"], (60, 3), p=[0.35, 0.35, 0.2, 0.1])
    labels[:, 0] = rng.choice(["1", "0"], 60)
    rows = [[name, f"{i // 2:03d}", *labels[i]] for i, name in enumerate(names)]
    write_table(tmp_path / "labels.csv", rows)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    commands = list(commands_of(ROOT / "docs/own_films.md"))
    for command in commands:
        if command[0] == "train.py":
            command += FEW_STEPS
        program = command if command[0] == "-m" else [ROOT / command[0], *command[1:]]
        run(*program, cwd=tmp_path, env=ENVIRONMENT)
        assert (tmp_path / "data").exists() == ("--dry_run" not in command)
    assert [command[command[0] == "-m"] for command in commands] == [
        *("data_prep/from_csv.py", "data_prep/from_csv.py", "train.py", "eval.py"),
        *("agcnn_jax.predict", "agcnn_jax.export"),
    ]
    results = tmp_path / "runs/mary/eval/test"
    assert "St Mary 2024" in (results / "report.html").read_text()
    with open(results / "predictions_fusion.csv", newline="") as file:
        found = {row["Image Index"]: row for row in csv.DictReader(file)}
    assert found and found.keys() <= set(names)
    with open(tmp_path / "predictions/predictions.csv", newline="") as file:
        predicted = {row["path"]: row for row in csv.DictReader(file)}
    assert predicted.keys() == {f"films/{name}" for name in names}
    for name, row in found.items():
        for finding in ("Effusion", "Mass", "Scoliosis"):
            column = f"prob_{finding}"
            assert abs(float(row[column]) - float(predicted[f"films/{name}"][column])) < 1e-5


@pytest.mark.slow
def test_phantoms_train_alike_after_either_command(raw, tmp_path):
    """20 steps a stage end with the same weights and AUCs to the last digit."""
    options = [f"--images={raw / 'images'}", f"--labels={raw / 'Data_Entry_2017_v2020.csv'}"]
    prepare_nih(raw, tmp_path / "nih")
    prepare(tmp_path, *options, f"--data_dir={tmp_path / 'own'}")
    results = []
    for name in ("nih", "own"):
        workdir = tmp_path / f"run_{name}"
        split = ("--config.data.protocol=patient", f"--config.data.dir={tmp_path / name}")
        run("train.py", *SMALL, *split, f"--workdir={workdir}", env=ENVIRONMENT)
        run("eval.py", SMALL[0], f"--workdir={workdir}", env=ENVIRONMENT)
        stages = sorted(workdir.glob("stages/*/result.json"))
        assert len(stages) == 3
        weights = [json.loads(path.read_text())["weights"] for path in stages]
        results.append((weights, json.loads((workdir / "eval/test/auc.json").read_text())))
    (weights, scores), (same_weights, same_scores) = results
    assert weights == same_weights
    assert scores["branches"] == same_scores["branches"]
    assert open_records(tmp_path / "own").collection != open_records(tmp_path / "nih").collection
