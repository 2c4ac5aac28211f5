import base64
import html.parser
import re

import numpy as np

from agcnn_jax.evaluation.cohort import SYNTHETIC_NOTE, describe_cohort
from agcnn_jax.evaluation.references import PAPER_SETTING
from agcnn_jax.evaluation.report import render_report, summary
from agcnn_jax.evaluation.tables import build_table
from agcnn_jax.metrics.auc_table import auc_table
from agcnn_jax.run.lineage import Overlap

FINDINGS = ("Mass", "Nodule")
VOID = {"meta", "img"}


class Checker(html.parser.HTMLParser):
    """Collects the addresses in a page and checks that its tags are balanced."""

    def __init__(self):
        super().__init__()
        self.open, self.sources, self.tags = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def page(backbone="resnet50", provenance="ChestX-ray14", positives=True, films=None):
    labels = np.zeros((4, 2), np.uint8)
    labels[:2] = positives
    results = auc_table(
        labels,
        {"global": 1.0 - labels, "fusion": 1.0 * labels},
        labels=FINDINGS,
        findings=FINDINGS,
        patient_ids=range(4),
        resamples=9,
    )
    cohort = describe_cohort(
        labels,
        FINDINGS,
        range(4),
        split="test",
        protocol="random",
        setting=PAPER_SETTING,
        backbone=backbone,
        provenance=provenance,
        overlap=Overlap(0, 0, True),
    )
    settings = {"model": {"backbone": backbone}, "note": "<b> & co"}
    text = render_report(build_table(results, cohort), cohort, results, b"roc", films, settings)
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert checker.open == []
    return text, checker, summary(results, cohort)


def test_page_is_self_contained():
    text, checker, _ = page(films=b"films")
    assert "<h2>Attention</h2>" in text
    encoded = [base64.b64encode(data).decode() for data in (b"roc", b"films")]
    assert checker.sources == [
        f"data:image/png;base64,{encoded[0]}",
        f"data:image/jpeg;base64,{encoded[1]}",
    ]
    assert not {"script", "link", "iframe"} & set(checker.tags)
    assert "url(" not in text
    assert "@import" not in text


def test_content():
    text, _, sentence = page()
    assert sentence == (
        "The fusion branch reaches a mean AUC of 1.000 over 2 of 2 findings, on "
        "4 images of 4 patients. The paper reports 0.860 on its own random split."
    )
    assert sentence in text
    assert "patients shared with training: 0 of " in text
    assert "<td>Mass</td><td>2</td><td>50.0 %</td><td>2</td>" in text
    assert "<td>model.backbone</td><td>resnet50</td>" in text
    assert "&lt;b&gt; &amp; co" in text
    assert "<h2>Attention</h2>" not in text
    assert "Rajpurkar" in text


def test_phantoms_are_never_beside_published_numbers():
    text, _, sentence = page(provenance="phantoms (synthetic)")
    assert text.count(SYNTHETIC_NOTE) == 2
    assert "paper" not in sentence
    assert not re.search("Rajpurkar|Guan|paper", text)


def test_no_auc_at_all():
    assert page(positives=False)[2].startswith("There is no AUC: no finding is both present")
