"""Files of predictions: measures beside their AUCs, thresholds from validation, groups."""

import csv
import json

import numpy as np
import pytest
from scipy.special import expit

from agcnn_jax.evaluation.evaluate_predictions import evaluate_predictions
from agcnn_jax.evaluation.files.label_table import groups_of, read_labels
from agcnn_jax.metrics.calibration import fit_line
from agcnn_jax.metrics.operating_points import choose_thresholds
from agcnn_jax.runtime.errors import UserError

ROWS = 160


@pytest.fixture
def files(write):
    """Labels of 160 patients with an image each, and writers of predictions for some of them."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, ROWS)
    logits = generator.normal(labels, 1.5).round(3)
    header = "Image Index,Finding Labels,Patient ID,Patient Age,Patient Gender,View Position"
    lines = [
        f"{i}.png,{'Mass' if labels[i] else 'No Finding'},{i},{20 + i % 50:03d}Y,{'MF'[i % 2]},PA"
        for i in range(ROWS)
    ]
    table = write("labels.csv", "\n".join([header, *lines]))

    def predictions(name, rows, form="prob"):
        cells = {
            "prob": [expit(logits)],
            "logit": [logits],
            "both": [expit(logits), logits],
        }[form]
        columns = {"prob": "prob_Mass", "logit": "prob_Mass", "both": "prob_Mass,logit_Mass"}[form]
        lines = [",".join([f"{i}.png", *(str(c[i]) for c in cells)]) for i in rows]
        return write(name, "\n".join([f"Image Index,{columns}", *lines]))

    return table, predictions, labels, logits


def evaluate(files, out, first, second, logits=False):
    table, predictions, _, _ = files
    evaluate_predictions(
        predictions("p.csv", range(100), first),
        table,
        validation_path=predictions("v.csv", range(100, ROWS), second),
        logits=logits,
        out=out,
    )
    return json.loads((out / "metrics.json").read_text())["branches"]["predictions"]["Mass"]


@pytest.mark.parametrize(
    ("first", "second", "logits", "of_logits"),
    [
        ("both", "both", False, True),
        ("prob", "prob", False, False),
        ("both", "prob", False, False),
        ("prob", "both", False, False),
        ("logit", "logit", True, True),
    ],
)
def test_validation_chooses_what_the_scored_images_are_judged_by(
    files, tmp_path, first, second, logits, of_logits
):
    found = evaluate(files, tmp_path / "out", first, second, logits)
    _, _, labels, values = files
    expected = choose_thresholds(labels[100:], values[100:])["youden"]
    point = found["operating_points"]["youden"]
    assert point["threshold_probability"] == pytest.approx(expit(expected), abs=1e-9)
    assert (point["threshold_logit"] is not None) == of_logits
    called = values[:100] >= expected
    assert point["true_positives"] == (called & (labels[:100] == 1)).sum()
    assert found["platt"] == pytest.approx(fit_line(labels[100:], values[100:]), abs=1e-6)


def test_the_files_of_an_evaluation(files, tmp_path):
    table, predictions, _, _ = files
    out = tmp_path / "out"
    printed = evaluate_predictions(predictions("p.csv", range(100)), table, out=out)
    plain = evaluate_predictions(predictions("p.csv", range(100)), table)
    assert printed.rows == plain.rows
    assert printed.below[:-1] == plain.below
    assert "no predictions of validation images were given" in printed.below[-1]
    names = {path.name for path in out.iterdir()}
    assert {"auc.json", "auc.csv", "metrics.csv", "metrics.md", "subgroups.csv"} <= names
    assert not {"operating_points.csv", "predictions_predictions.csv"} & names
    groups = {row["group"] for row in csv.DictReader((out / "subgroups.csv").open())}
    assert groups == {"F", "M", "18-39", "40-59", "60 and over", "PA"}


def test_two_models_are_compared_in_the_files_too(files, tmp_path):
    table, predictions, _, _ = files
    out = tmp_path / "out"
    paths = [predictions(name, range(100)) for name in ("a.csv", "b.csv")]
    printed = evaluate_predictions(paths[0], table, compare_path=paths[1], out=out)
    assert printed.groups[-1][0] == "first minus second"
    header, row = (out / "comparison.csv").read_text().splitlines()[:2]
    assert header.startswith("finding,a.csv_minus_b.csv")
    assert row.startswith("Mass,0.0,")
    branches = json.loads((out / "metrics.json").read_text())["branches"]
    assert branches["a.csv"] == branches["b.csv"]


@pytest.mark.parametrize(
    ("rows", "change", "message"),
    [
        (range(90, 140), None, "v.csv: 10 of 50 images, the first '90.png', are scored too"),
        (
            range(100, ROWS),
            ("159.png", "x.png"),
            "v.csv: 1 of 60 images, the first 'x.png', are not",
        ),
        (
            range(100, ROWS),
            ("_Mass", "_Hernia"),
            "v.csv: lacks 1 of the scored findings, .* 'Mass'",
        ),
        (range(100, ROWS), ("159.png,", "159.png,7"), "v.csv, line 61, prob_Mass: .* --logits"),
    ],
)
def test_mistakes_in_validation(files, tmp_path, write, rows, change, message):
    table, predictions, _, _ = files
    validation = predictions("v.csv", rows)
    if change:
        validation = write("v.csv", validation.read_text().replace(*change))
    with pytest.raises(UserError, match=message):
        evaluate_predictions(
            predictions("p.csv", range(100)),
            table,
            validation_path=validation,
            out=tmp_path / "out",
        )
    assert not (tmp_path / "out").exists()


def test_options_that_have_no_effect(files, tmp_path):
    table, predictions, _, _ = files
    p, v = predictions("p.csv", range(100)), predictions("v.csv", range(100, ROWS))
    with pytest.raises(UserError, match="--validation goes with --out"):
        evaluate_predictions(p, table, validation_path=v)
    with pytest.raises(UserError, match="leave --compare or --validation out"):
        evaluate_predictions(p, table, validation_path=v, compare_path=p, out=tmp_path / "out")
    with pytest.raises(UserError, match=r"--out .* is not empty"):
        evaluate_predictions(p, table, out=tmp_path)


def test_a_table_without_ages_has_no_age_groups(write):
    table = write("l.csv", "Image Index,Finding Labels,Patient ID,Patient Sex\na.png,Mass,1,\n")
    groups = groups_of(read_labels(table), [0])
    assert {name: values.tolist() for name, values in groups.items()} == {"sex": ["unknown"]}
    header = "Image Index,Finding Labels,Patient ID,Patient Age,Patient Sex,Patient Gender"
    table = write("l.csv", f"{header}\na.png,Mass,1,old,F,M\nb.png,Mass,2,18,F,M\n")
    groups = groups_of(read_labels(table), [1, 0])
    assert groups["age"].tolist() == ["18-39", "unknown"]
    assert groups["sex"].tolist() == ["M", "M"]  # NIH's own column goes first


def test_images_are_found_whatever_their_folders_and_extensions(files, write):
    table, predictions, _, _ = files
    path = predictions("p.csv", range(100))
    plain = evaluate_predictions(path, table)
    header, *rows = path.read_text().splitlines()
    for form in ("images_001/{}.png", "{}.PNG", "C:\\d\\{}.png", "{}"):
        renamed = [form.format(row.partition(".png")[0]) + row.partition(".png")[2] for row in rows]
        for column in ("Path", "image"):
            text = "\n".join([header.replace("Image Index", column), *renamed])
            table_of = evaluate_predictions(write("p.csv", text), table)
            assert (table_of.rows, table_of.below) == (plain.rows, plain.below)
    subset = write("s.txt", "\r\n".join(f"images_002/{i}.png 0 1" for i in range(40, 120)))
    notes = evaluate_predictions(write("p.csv", text), table, subset_path=subset).below
    assert notes[0] == "Of 80 images in s.txt, 20 have no prediction."
    twice = write("p.csv", "\n".join([header, *rows, "x/7.png,0.5"]))
    with pytest.raises(UserError, match=r"p\.csv: image '7\.png' has more than one row"):
        evaluate_predictions(twice, table)
    strange = write("p.csv", f"{header}\nscan 1.png,0.5")
    said = r"p\.csv: 1 of 1 images, the first 'scan 1\.png', .*labels\.csv, whose first is '0\.png'"
    with pytest.raises(UserError, match=said):
        evaluate_predictions(strange, table)
