import base64
import dataclasses
import html.parser
import itertools
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image
from scipy.special import expit

from agcnn_jax.evaluation.figures import files as figures_of
from agcnn_jax.evaluation.report.report import render_report
from agcnn_jax.evaluation.report.summary import summary
from agcnn_jax.evaluation.scoring.cohort import SYNTHETIC_NOTE
from agcnn_jax.evaluation.scoring.evaluation import EvaluatedModel, Evaluation
from agcnn_jax.evaluation.scoring.localisation import WAYS, Count, Localisation
from agcnn_jax.evaluation.scoring.map_boxes import ATTENDED
from agcnn_jax.evaluation.scoring.subsets import FlowRow
from agcnn_jax.metrics.localisation import box_hits, score_differences, score_hits
from agcnn_jax.run import lineage
from tests.evaluation.cases import draw, evaluated, make_films

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
VOID = {"meta", "img"}
SETTINGS = {"model": {"backbone": "resnet50"}, "note": "<b> & co"}


class Checker(html.parser.HTMLParser):
    """Collects the addresses and names in a page and checks that its tags are balanced."""

    def __init__(self):
        super().__init__()
        self.open, self.sources, self.links, self.ids, self.tags = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name == "src"]
        self.links += [value for name, value in attrs if name == "href"]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


class Tables(html.parser.HTMLParser):
    """Collects the tables of a page: for each row, the columns that each of its cells covers."""

    def __init__(self):
        super().__init__()
        self.tables, self.style, self.below, self.data = [], "", {}, None

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag == "table":
            self.tables.append((attributes.get("class", ""), []))
            self.below = {}
        elif tag == "tr":
            self.tables[-1][1].append([])
        elif tag in ("td", "th"):
            row = self.tables[-1][1][-1]
            taken = {column for cell in row for column in cell}
            # Cells of the rows above that reach down into this one.
            taken |= {column for column, rows in self.below.items() if rows > 0}
            start = next(column for column in itertools.count() if column not in taken)
            cell = range(start, start + int(attributes.get("colspan", 1)))
            row.append(cell)
            rows = int(attributes.get("rowspan", 1))
            self.below |= dict.fromkeys(cell, rows if rows > 1 else 0)

    def handle_endtag(self, tag):
        if tag == "tr":
            self.below = {column: rows - 1 for column, rows in self.below.items()}

    def handle_data(self, data):
        if data.lstrip().startswith(":root"):
            self.style = data


def rules(style):
    """The selectors of a style, those within @media too, each with its declarations."""
    for selectors, declarations in re.findall(r"([^{}]+){([^{}]*)}", style):
        for selector in selectors.split(","):
            yield selector.strip(), declarations


def chosen(selector, kind, row):
    """The cells of a row that a selector such as `.auc td:nth-child(2)` means."""
    found = re.fullmatch(r"(?:\.([\w-]+) )?t[hd]:(?:(first)-child|nth-child\((\d+)\))", selector)
    assert found, f"{selector}: this test cannot tell which cells it means"
    table, first, number = found.groups()
    place = 0 if first else int(number) - 1
    return row[place : place + 1] if table in (None, *kind.split()) else []


def localised():
    box = np.array([[[0.0, 0, 4, 4]]] * 3)
    hits = box_hits(box, box, np.array([[1.0, 1]] * 3), np.arange(3), 8)
    of_tau = {way: {"Mass": score_hits(hits)} for way in WAYS}
    apart = {way: {"Mass": score_differences(hits, hits)} for way in WAYS if way != ATTENDED}
    count = Count(3, 3, 3)
    return Localisation(0.7, "max", count, {"Mass": count}, {0.7: of_tau}, apart)


def make_evaluation(branches=("global", "fusion"), **changes):
    scored = draw(branches=branches)
    results, measures, cohort = evaluated(scored, **changes)
    return Evaluation(
        scored,
        cohort,
        results,
        measures,
        model=EvaluatedModel(SETTINGS, lineage.NOTHING, {}),
        localisation=localised(),
        flow=[FlowRow("files found", 1234), FlowRow("scored", 240, 120)],
    )


def check(evaluation, figures=None):
    text = render_report(evaluation, figures or {})
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert checker.open == []
    return text, checker


def test_page_is_self_contained():
    figures = {"roc.png": b"roc", "misses.jpeg": b"films", "roc.pdf": b""}
    text, checker = check(make_evaluation(), figures)
    encoded = [base64.b64encode(data).decode() for data in (b"roc", b"films")]
    assert checker.sources == [
        f"data:image/png;base64,{encoded[0]}",
        f"data:image/jpeg;base64,{encoded[1]}",
    ]
    assert checker.links == [f"#{name}" for name in checker.ids]
    assert not {"script", "link", "iframe"} & set(checker.tags)
    assert "url(" not in text
    assert "@import" not in text


def test_content():
    evaluation = make_evaluation()
    text, _ = check(evaluation)
    fusion = evaluation.results["fusion"]
    sentence = summary(evaluation.results, evaluation.measures, evaluation.cohort)[0]
    low, high = fusion.mean.interval
    assert sentence == (
        f"The fusion branch reaches a mean AUC of {fusion.mean.value:.3f} [{low:.3f}, {high:.3f}] "
        f"over 2 of 3 findings, on 240 images of 120 patients. The paper reports "
        f"{(0.893 + 0.836) / 2:.3f} on its own random split."
    )
    assert sentence in text
    assert "patients shared with training: 0 of " in text
    assert "<td>files found</td><td>1,234</td>" in text
    assert "<td>Mass</td><td>80</td><td>33.3 %</td><td>40</td>" in text
    point = evaluation.measures.operating_points["fusion"]["Mass"]["youden"]
    assert f"<td>{expit(point.threshold):.4g}</td>" in text
    assert "<th>threshold (probability)</th>" in text
    assert "<td>sex: F</td><td>120</td><td>60</td>" in text
    assert "3 annotated boxes in 3 images" in text
    assert "<td>model.backbone</td><td>resnet50</td>" in text
    assert "&lt;b&gt; &amp; co" in text
    assert "Best catches" not in text
    assert re.search(r"<td>jax</td><td>\d", text)


def test_numbers_are_under_their_headings_at_every_width():
    page = Tables()
    page.feed(check(make_evaluation(branches=("global", "local", "fusion")))[0])
    assert len(page.tables) > 10
    for kind, rows in page.tables:
        width = max(cell.stop for cell in rows[0])
        assert all([c for cell in row for c in cell] == list(range(width)) for row in rows)
        for selector, declarations in rules(page.style):
            if re.search(r"display: *none", declarations) and re.search(r"\bt[hdr]\b", selector):
                # Whatever a rule hides, it hides in every row.
                hidden = {tuple(c for cell in chosen(selector, kind, row) for c in cell)
                          for row in rows}  # fmt: skip
                assert len(hidden) == 1, selector
            if "sticky" in declarations and re.search(r"\bt[hd]\b:", selector):
                # What stays while the others scroll covers none of them.
                assert {cell for row in rows for cell in chosen(selector, kind, row)} == {range(1)}


def test_two_files():
    names = ("a<b>.csv", "b.csv")
    evaluation = make_evaluation(
        branches=names, split=None, protocol=None, backbone=None, setting=None
    )
    text, _ = check(evaluation)
    first, *_ = summary(evaluation.results, evaluation.measures, evaluation.cohort)
    assert first.startswith(
        f"a<b>.csv reaches a mean AUC of {evaluation.results['a<b>.csv'].mean.value:.3f}"
    )
    assert "<b>.csv" not in text
    assert "b.csv: threshold by" in text


@pytest.mark.parametrize(("shift", "right"), [(0.0, 1), (-4.5, 0), (0.5, 0)])
def test_calibration_in_words(shift, right):
    # Two findings: one is calibrated but for the shift, the other's logits are twice too large.
    generator = np.random.default_rng(0)
    true = generator.normal(-1, 1.5, (8000, 2))
    labels = (generator.random(true.shape) < expit(true)).astype(np.uint8)
    logits = true * [1, 2] - shift
    scored = dataclasses.replace(
        draw(),
        image_ids=[f"{i}.png" for i in range(8000)],
        patient_ids=np.arange(8000),
        labels=("Mass", "Hernia"),
        findings=("Mass", "Hernia"),
        label_matrix=labels,
        probabilities={"fusion": expit(logits)},
        logits={"fusion": logits},
        groups={},
    )
    results, measures, cohort = evaluated(scored, backbone=None, setting=None)
    sentence = summary(results, measures, cohort)[2]
    found = re.search(r"slope (\S+) .* intercept (\S+) .* right for (\d) of them", sentence)
    assert float(found[1]) == pytest.approx(0.75, abs=0.03)
    if shift:
        assert np.sign(float(found[2])) == np.sign(shift)
    assert int(found[3]) == right


def test_published_results_are_those_of_the_split():
    text, _ = check(make_evaluation())
    # The 70/10/20 split, as the paper's.
    assert "Guan et al. 2018" in text
    assert "this evaluation, fusion" in text
    text, _ = check(make_evaluation(protocol="patient", setting=None))
    assert "this evaluation, fusion" not in text
    assert "Published results" not in text


def test_synthetic_images_are_never_beside_published_numbers():
    evaluation = make_evaluation(synthetic=True)
    text, _ = check(evaluation)
    assert text.count(SYNTHETIC_NOTE) == 2
    assert "paper" not in " ".join(
        summary(evaluation.results, evaluation.measures, evaluation.cohort)
    )
    assert not re.search("Rajpurkar|Guan|the paper|Wang et al. 2017", text)
    assert "drawn by a program" in text


def test_no_auc_at_all():
    scored = draw()
    scored = dataclasses.replace(scored, label_matrix=0 * scored.label_matrix)
    results, measures, cohort = evaluated(scored)
    (sentence,) = summary(results, measures, cohort)
    assert sentence.startswith("There is no AUC: no finding is both present")
    evaluation = dataclasses.replace(
        make_evaluation(), results=results, cohort=cohort, measures=measures
    )
    assert sentence in check(evaluation)[0]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_shows_the_numbers(tmp_path):
    evaluation = make_evaluation()
    evaluation = dataclasses.replace(evaluation, films=make_films(1, 64))
    page = tmp_path / "report.html"
    page.write_text(render_report(evaluation, figures_of.files(evaluation)), encoding="utf-8")

    def browse(*options):
        quiet = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/c")
        # Without a network: whatever the page fetched would be missing.
        offline = "--host-resolver-rules=MAP * ~NOTFOUND"
        command = [CHROMIUM, *quiet, offline, *options, page.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)

    shown = browse("--dump-dom").stdout
    fusion = evaluation.results["fusion"]
    for number in (fusion.mean.value, *filter(None, fusion.auc.values())):
        assert f"{number:.3f}" in shown
    metrics = evaluation.measures.findings["fusion"]["Mass"]
    assert f"{metrics.numbers['average_precision'].value:.3f}" in shown
    assert f"{metrics.numbers['slope'].value:.2f}" in shown
    # No table is cut on a screen of 1,200 pixels, whose reader opens everything.
    script = (
        "<script>document.querySelectorAll('details').forEach(one => one.open = true);"
        "document.title = [...document.querySelectorAll('.scroll:has(table)')]"
        ".filter(one => one.scrollWidth > one.clientWidth).length + ' cut';</script></body>"
    )
    whole = page.read_text(encoding="utf-8")
    page.write_text(whole.replace("</body>", script), encoding="utf-8")
    assert "<title>0 cut</title>" in browse("--window-size=1200,900", "--dump-dom").stdout
    page.write_text(whole, encoding="utf-8")
    picture = tmp_path / "page.png"
    browse("--hide-scrollbars", "--window-size=1200,9000", f"--screenshot={picture}")
    pixels = np.asarray(Image.open(picture).convert("RGB"), int)
    blue = np.abs(pixels - [0x00, 0x72, 0xB2]).max(axis=-1) < 16
    # The curves of the global branch: the figures are there, not only their frames.
    assert blue.sum() > 1000
