"""The pages name the right version and paper, and files that exist."""

import re
import tomllib

import pytest
import yaml

import agcnn_jax
from agcnn_jax.runtime.errors import TRAIN, packages_of
from tests.support.programs import ROOT

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


CODE = ("benchmarks", "configs", "data_prep", "docs")
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "Makefile", "agcnn_jax/configs/*.py", "launch/*.*")
    for path in ROOT.glob(pattern)
)
MODULE = re.compile(r"`(?:python )?(\w+\.py)\b")
FILE = re.compile(r"(?<![\w./-])([a-z_]+/[\w./-]*\.(?:py|md|sh|yaml|sbatch|png|json))(?![\w/])")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page):
    text = page.read_text()
    places = (ROOT, ROOT / "agcnn_jax", page.parent)
    written = ("runs/", "data/", "eval/", "agcnn/code/")  # by the commands
    missing = {
        name
        for name in FILE.findall(text)
        if "NAME" not in name
        and not name.startswith(written)
        and not any((place / name).exists() for place in places)
    }
    assert not missing
    modules = {path.name for place in (*CODE, ".") for path in (ROOT / place).glob("*.py")}
    modules |= {path.name for path in (ROOT / "agcnn_jax").rglob("*.py")}
    assert set(MODULE.findall(text)) <= modules


def test_what_package_indexes_show_needs_no_other_file():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    page = (ROOT / project["readme"]).read_text()
    links = re.findall(r"\]\((.*?)\)", page)
    assert links and all(link.startswith("https://") for link in links)


def test_messages_name_the_packages_of_an_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    names = {extra: {re.split("[<>=]", one)[0] for one in extras[extra]} for extra in extras}
    for extra in set(extras) - {"train", "test", "docs", "notebook"}:
        packages, command = packages_of(extra).split(" (in a checkout: ")
        assert set(packages.split(" and ")) == names[extra]
        assert command == f"make install EXTRA={extra})"
    assert set(TRAIN.values()) == names["train"]


def test_no_text_advises_a_pip_that_is_not_there():
    # The environment has no pip, and anyone could register a name like this package's.
    folders = ("agcnn_jax", "benchmarks", "configs", "data_prep", "docs", "launch")
    paths = [*ROOT.glob("*.md"), *(p for one in folders for p in (ROOT / one).rglob("*"))]
    texts = {p: p.read_text() for p in paths if p.suffix in {".py", ".md", ".sh", ".sbatch"}}
    advised = re.compile(r"agcnn-jax\[|\bpip install\b|python -m pip install")
    found = {str(path.relative_to(ROOT)) for path, text in texts.items() if advised.search(text)}
    assert found - {"CHANGELOG.md"} == {
        "docs/install.md",  # with the pip of another environment, from a clone
        "docs/tested.md",  # repeats its lines
        "launch/tpu_worker.sh",  # installs uv on a bare host, with its own pip
    }
