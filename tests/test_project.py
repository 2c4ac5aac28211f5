"""The version and the paper are the same wherever the project names them."""

import re

import yaml

import agcnn_jax
from tests.programs import ROOT

# As strings: YAML would make dates and numbers of some.
CITATION = yaml.load((ROOT / "CITATION.cff").read_text(), yaml.BaseLoader)


def test_one_version():
    project = (ROOT / "pyproject.toml").read_text()
    assert 'version = { attr = "agcnn_jax.__version__" }' in project
    assert not re.search(r'^version = "', project, re.MULTILINE)
    assert CITATION["version"] == agcnn_jax.__version__
    changes = re.findall(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert changes[:2] == ["Unreleased", agcnn_jax.__version__]


def test_the_paper_is_cited():
    paper = CITATION["preferred-citation"]
    names = [author["family-names"] for author in paper["authors"]]
    assert names == ["Guan", "Huang", "Zhong", "Zheng", "Zheng", "Yang"]
    assert paper["title"].startswith("Diagnose like a Radiologist")
    assert paper["url"] in (ROOT / "README.md").read_text()
