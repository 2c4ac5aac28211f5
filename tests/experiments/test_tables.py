import csv
import io

import numpy as np
import pytest

from agcnn_jax.experiments import figures, summary, tables
from agcnn_jax.experiments.plan import EXPERIMENTS
from agcnn_jax.experiments.result import DIFFERENCE, _estimates, _scores
from agcnn_jax.metrics.seeds import auc_over_seeds, over_seeds
from tests.evaluation.cases import draw
from tests.experiments.results import BRANCHES, made

ATTENTION = {
    "images": {"Mass": 12},
    "pointing": {
        "attended": {"Mass": [0.5, 0.4, 0.6]},
        "random_map": {"Mass": [0.25, 0.2, 0.3]},
        "centred_square": {"Mass": [0.0, 0.0, 0.1]},
        "mean_box": {},
    },
    "attended minus": {
        "random_map": {"Mass": [0.25, 0.1, 0.4]},
        "centred_square": {"Mass": [0.5, -0.1, 1.0]},
        "mean_box": {},
    },
}


def result(seed, place=0, **data):
    scored = draw(1000 * place + seed, BRANCHES)
    areas = np.where(scored.label_matrix[:, 0] == 1, np.arange(240.0), np.nan)
    test = {**_scores(scored), **_estimates(scored, {"Mass": areas})}
    return made(test, _scores(draw(99 + seed, BRANCHES)), seed=seed, attention=ATTENTION, **data)


def summarised(name, backbone="resnet50", seeds=3, **data):
    rows = EXPERIMENTS[name].rows
    group = {
        row: [result(seed, place, **data) for seed in range(seeds)]
        for place, row in enumerate(rows)
    }
    return summary.summarise(name, {backbone: group}), group


def test_a_row_is_the_mean_over_its_seeds():
    content, group = summarised("table2")
    found = content["backbones"]["resnet50"]["rows"]["GLF"]
    results = group["GLF"]
    expected = auc_over_seeds([r.estimates["local"] for r in results])
    local = found["branches"]["local"]
    assert local["value"] == pytest.approx(np.mean([r.mean("local") for r in results]))
    assert (local["deviation"], local["interval"]) == (expected.deviation, expected.interval)
    assert local["validation"] == pytest.approx(
        np.mean([r.mean("local", "validation") for r in results])
    )
    difference = [r.estimates["fusion"].minus(r.estimates["global"]) for r in results]
    assert found[DIFFERENCE] == over_seeds(difference)._asdict()
    mass = found["branches"]["global"]["findings"]["Mass"]
    assert mass["value"] == pytest.approx(np.mean([r.auc("global", "Mass") for r in results]))
    assert found["branches"]["global"]["findings"]["Hernia"]["value"] is None


def test_rows_are_compared_with_the_reference_seed_by_seed():
    content, group = summarised("table3")
    rows = content["backbones"]["resnet50"]["rows"]
    assert "minus reference" not in rows["max"]
    pairs = zip(group["l2"], group["max"], strict=True)
    expected = over_seeds(
        [one.estimates["fusion"].minus(o.estimates["fusion"]) for one, o in pairs]
    )
    assert rows["l2"]["minus reference"]["fusion"] == expected._asdict()


def test_seeds_of_the_reference_alone_are_not_compared():
    group = {"max": [result(0), result(1), result(2)], "l1": [result(0, 1)]}
    content = summary.summarise("table3", {"resnet50": group})
    found = content["backbones"]["resnet50"]["rows"]["l1"]["minus reference"]["fusion"]
    assert found["seeds"] == 1


@pytest.mark.parametrize(
    ("name", "row", "expected"),
    [
        ("table2", "GLF", (0.847, 0.815, 0.849)),
        ("table2", "G_L_F", (0.841, 0.817, 0.868)),
        ("table3", "l2", (0.8412, 0.8213, 0.8672)),
        ("control", "whole image (GLF)", (0.845, 0.846, 0.851)),
        ("control", "attended region", (0.841, 0.817, 0.868)),
        ("control", "centred crop", (None, None, None)),
        ("tau", "0.7", (0.841, 0.817, 0.868)),
        ("tau", "0.3", (None, None, None)),
        ("detail", "input", (0.841, 0.817, 0.868)),
        ("detail", "stored", (None, None, None)),
    ],
)
def test_the_paper_s_numbers(name, row, expected):
    """Guan et al. 2018, Tables I to III and Section IV-C."""
    for backbone in ("resnet50", "resnet_tiny"):
        content, _ = summarised(name, backbone=backbone, seeds=1)
        branches = content["backbones"][backbone]["rows"][row]["branches"]
        assert tuple(branches[branch]["paper"] for branch in BRANCHES) == expected


@pytest.mark.parametrize(
    ("backbone", "fusion", "mass"),
    [("resnet50", 0.868, 0.893), ("densenet121", 0.871, 0.902), ("resnet_tiny", 0.868, 0.893)],
)
def test_the_paper_s_table_1(backbone, fusion, mass):
    content, _ = summarised("table1", backbone=backbone, seeds=1)
    of_fusion = content["backbones"][backbone]["rows"][""]["branches"]["fusion"]
    assert (of_fusion["paper"], of_fusion["findings"]["Mass"]["paper"]) == (fusion, mass)


def test_cells():
    content, _ = summarised("table1")
    main, sizes, attention = tables.as_tables(content, "resnet50")
    assert [row[0] for row in main.rows] == ["Mass", "Pleural_Thickening", "Hernia", "Mean"]
    of_global = content["backbones"]["resnet50"]["rows"][""]["branches"]["global"]
    assert main.rows[-1][1:5] == (
        f"{of_global['value']:.3f}",
        f"{of_global['deviation']:.3f}",
        "0.841",
        f"{of_global['value'] - 0.841:+.3f}",
    )
    assert main.rows[2][1:3] == ("–", "–")
    assert [row[0] for row in sizes.rows] == ["small", "medium", "large"]
    assert attention.rows == (("Mass", "12", "0.500", "0.250", "0.000", "–", "3", "0", "0"),)
    widths = {len(row) for row in main.rows}
    assert widths == {sum(len(headers) for _, headers in main.groups)}


def test_notes_say_what_intervals_cover_and_that_images_are_synthetic():
    """Whatever words their provenance has."""
    content, _ = summarised("tau", seeds=1, synthetic=True)
    assert content["synthetic"] is True
    (table,) = tables.as_tables(content, "resnet50")
    text = " ".join(table.below)
    assert "patients alone, since there is one seed" in text
    assert "images are synthetic" in text and "local 0.828 at tau 0.1" in text
    content, _ = summarised("table2", seeds=2, provenance="real, of synthetic phantoms")
    text = " ".join(tables.as_tables(content, "resnet50")[0].below)
    assert "training seeds and patients" in text and "images are synthetic" not in text


def test_csv_has_every_number_with_full_precision():
    content, group = summarised("detail", seeds=2)
    rows = list(csv.DictReader(io.StringIO(tables.as_csv(content))))
    found = {(r["row"], r["quantity"], r["finding"]): r for r in rows}
    assert len(found) == len(rows)
    minus = content["backbones"]["resnet50"]["rows"]["stored"]["minus reference"]["fusion small"]
    assert (
        float(found["stored", "fusion small minus reference", "Mean"]["low"])
        == minus["interval"][0]
    )
    mean = np.mean([r.mean("local") for r in group["input"]])
    assert float(found["input", "local", "Mean"]["value"]) == pytest.approx(mean, rel=1e-12)
    assert found["input", "local", "Mean"]["paper"] == "0.817"


@pytest.mark.parametrize("name", ["table1", "control", "tau"])
def test_figures_show_what_the_table_has(name):
    content, _ = summarised(name, seeds=2, synthetic=True)
    figure = figures.draw(content, "resnet50")
    rows = content["backbones"]["resnet50"]["rows"]
    assert "SYNTHETIC" in figure.get_suptitle() and "2 seeds" in figure.get_suptitle()
    drawn = [line.get_xdata() for axes in figure.axes for line in axes.lines]
    if name == "tau":
        drawn = [line.get_ydata() for axes in figure.axes for line in axes.lines]
        wanted = [row["branches"]["fusion"]["value"] for row in rows.values()]
    elif name == "control":
        wanted = [row[DIFFERENCE]["value"] for row in rows.values()]
    else:
        by_finding = rows[""][f"{DIFFERENCE} by finding"].values()
        wanted = [rows[""][DIFFERENCE]["value"], *(d["value"] for d in by_finding)]
        wanted = [np.nan if value is None else value for value in wanted]
    assert any(np.array_equal(line, wanted, equal_nan=True) for line in map(np.asarray, drawn))
