"""Two files of predictions, a list of images, and logits: eval.py --compare, --subset, --logits."""

import gzip

import numpy as np
import pytest

from agcnn_jax.evaluation.auc.comparison import p_text
from agcnn_jax.evaluation.evaluate_predictions import evaluate_predictions
from agcnn_jax.evaluation.scoring.comparison import compare_models
from agcnn_jax.metrics.auc_table import auc_table, paired_difference
from agcnn_jax.runtime.errors import UserError
from tests.support.programs import run
from tests.support.shared import CHEST_XRAY14, needs_chest_xray14

LABELS = "Image Index,Finding Labels,Patient ID\n" + "".join(
    f"{i}.png,{'Mass' if i % 3 == 0 else 'No Finding'},{i // 2}\n" for i in range(40)
)


def predictions(seed, names=range(40), columns=("Mass",), shift=0.0):
    generator = np.random.default_rng(seed)
    scores = {i: generator.random(3).round(3) / 2 + 0.3 * (i % 3 == 0) + shift for i in range(40)}
    header = ",".join(f"prob_{column}" for column in columns)
    rows = [f"{i}.png,{','.join(map(str, scores[i][: len(columns)]))}\n" for i in names]
    return f"Image Index,{header}\n{''.join(rows)}"


@pytest.fixture
def files(write):
    return write("l.csv", LABELS), write("a.csv", predictions(0)), write("b.csv", predictions(1))


def test_the_columns_of_a_comparison(files):
    labels, a, b = files
    table = evaluate_predictions(a, labels, compare_path=b)
    groups = dict(table.groups)
    assert list(groups) == ["", "a.csv", "b.csv", "first minus second"]
    assert groups["first minus second"] == ("AUC", "95 % interval", "p", "p (Holm)")
    mass, mean = table.rows
    alone = [evaluate_predictions(path, labels).rows[0] for path in (a, b)]
    assert mass[2:4] == alone[0][2:4]
    assert mass[4:6] == alone[1][2:4]
    assert float(mass[6]) == pytest.approx(float(alone[0][2]) - float(alone[1][2]), abs=5e-4)
    # Of one finding, the mean's difference is the finding's.
    assert mean[6:8] == mass[6:8]
    assert mass[8] == mass[9]
    assert "Obuchowski" in table.below[-1]


def test_rows_and_columns_in_another_order_are_the_same_predictions(write, files):
    labels, _a, _ = files
    both = ("Mass", "Hernia")
    first = write("first.csv", predictions(0, columns=both))
    lines = predictions(0, columns=both).splitlines()
    swapped = [",".join([name, second, one]) for name, one, second in (x.split(",") for x in lines)]
    second = write("second.csv", "\n".join([swapped[0], *reversed(swapped[1:])]))
    table = evaluate_predictions(first, labels, compare_path=second)
    assert [row[6] for row in table.rows] == ["+0.000", "–", "+0.000"]
    assert table.rows[0][8] == "–"


def test_differences_are_paired_and_corrected_over_the_findings():
    generator = np.random.default_rng(0)
    matrix = (generator.random((300, 3)) < 0.3).astype(np.uint8)
    matrix[:, 2] = 0
    good = matrix + generator.normal(size=matrix.shape)
    bad = good + np.array([3.0, 0.1, 1.0]) * generator.normal(size=matrix.shape)
    names = ("Mass", "Hernia", "Edema")
    results = auc_table(
        matrix,
        {"good": good, "bad": bad},
        labels=names,
        findings=names,
        patient_ids=np.arange(300) // 2,
    )
    mass, hernia, edema, mean = compare_models(results["good"], results["bad"])
    assert mass.difference == pytest.approx(
        results["good"].auc["Mass"] - results["bad"].auc["Mass"]
    )
    assert mass.holm == pytest.approx(2 * mass.p)
    assert hernia.holm == pytest.approx(max(hernia.p, 2 * mass.p))
    assert edema == ("Edema", None, None, None, None)
    expected = paired_difference(results["good"].mean, results["bad"].mean)
    assert (mean.difference, mean.interval) == expected


def test_p_values_as_journals_print_them():
    assert [p_text(p) for p in (None, 0.0004, 0.0312, 1.0)] == ["–", "< 0.001", "0.031", "1.000"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": range(39)}, "b.csv: lacks 1 of the images in .*a.csv, the first '39.png'"),
        ({"columns": ("Hernia",)}, "b.csv: lacks 1 of the findings in .*a.csv, the first 'Mass'"),
        ({"columns": ("Mass", "Edema")}, "a.csv: lacks 1 of the findings in .*b.csv"),
    ],
)
def test_files_of_other_images_or_findings_are_refused(write, files, change, message):
    labels, a, _ = files
    with pytest.raises(UserError, match=message):
        evaluate_predictions(a, labels, compare_path=write("b.csv", predictions(1, **change)))


def test_more_images_in_the_second_file_are_refused(write, files):
    labels, _, b = files
    a = write("a.csv", predictions(0, names=range(30)))
    with pytest.raises(UserError, match=r"a.csv: lacks 10 of the images in .*b.csv"):
        evaluate_predictions(a, labels, compare_path=b)


def test_a_subset_scores_its_images_and_counts_the_rest(write, files):
    labels, a, _b = files
    listed = write("list.txt", "".join(f"{i}.png\n" for i in range(20)))
    part = write("part.csv", predictions(0, names=range(18)))
    table = evaluate_predictions(part, labels, subset_path=listed)
    assert "Of 20 images in list.txt, 2 have no prediction." in table.below
    alone = evaluate_predictions(part, labels)
    assert table.rows[0][:3] == alone.rows[0][:3]
    assert (
        evaluate_predictions(a, labels, subset_path=listed)
        .above[0]
        .startswith("20 images of 10 patients")
    )
    # Two files need to agree on the subset only.
    evaluate_predictions(
        part,
        labels,
        compare_path=write("c.csv", predictions(1, range(18))),
        subset_path=listed,
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("\n", "list.txt: names no image; give a list"),
        ("0.png\nx.png\n", "list.txt: 1 of 2 names, the first 'x.png', are not in .*l.csv"),
        ("39.png\n", "part.csv: has none of the images in .*list.txt; give another --subset"),
    ],
)
def test_subsets_that_name_nothing_to_score(write, files, content, message):
    part = write("part.csv", predictions(0, names=range(18)))
    with pytest.raises(UserError, match=message):
        evaluate_predictions(part, files[0], subset_path=write("list.txt", content))


def test_numbers_outside_0_to_1_need_logits(write, files):
    labels, a, _ = files
    logits = write("logits.csv", predictions(0, shift=2.0))
    with pytest.raises(UserError, match=r"line 2, prob_Mass: .* give --logits if these are logits"):
        evaluate_predictions(logits, labels)
    scored = evaluate_predictions(logits, labels, logits=True)
    assert scored.rows[0][2] == evaluate_predictions(a, labels).rows[0][2]


def test_eval_compares(files):
    labels, a, b = files
    done = run("eval.py", "--predictions", a, "--labels", labels, "--compare", b)
    assert "first minus second" in done.stdout


@pytest.mark.parametrize("flag", ["--compare=b.csv", "--subset=x", "--logits"])
def test_flags_of_predictions_without_predictions(flag):
    done = run("eval.py", "--config=tests/configs/demo.py", flag, check=False)
    assert done.returncode == 2
    assert f"{flag.split('=')[0]} goes with --predictions" in done.stderr


@needs_chest_xray14
def test_the_published_predictions_on_the_official_test_list():
    table = evaluate_predictions(
        CHEST_XRAY14 / "pytorch_chexnet_predictions.csv.gz",
        CHEST_XRAY14 / "Data_Entry_2017_v2020.csv.gz",
        subset_path=CHEST_XRAY14 / "lists" / "official_test_list.txt.gz",
    )
    assert table.above[0].startswith("5,213 images")
    with gzip.open(CHEST_XRAY14 / "lists" / "official_test_list.txt.gz", "rt") as file:
        listed = len(file.read().split())
    assert f"Of {listed:,} images" in table.below[0]
    [mean] = [row for row in table.rows if row[0].startswith("Mean (14")]
    assert float(mean[2]) == pytest.approx(0.8182, abs=5e-5)
