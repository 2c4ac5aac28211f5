"""Every block of the pages runs or has a mark, and every figure names the command that made it."""

import re

import pytest

from agcnn_jax.config.keys import KEYS
from tests.docs.blocks import PAGES, REASONS, TABLE, blocks_of, table_of_marks, without_tables
from tests.support.programs import ROOT

KEY = re.compile(r"--config\.([a-z_.]+)=")


def test_marks_have_one_of_few_reasons():
    reasons = {block.reason for page in PAGES for block in blocks_of(page)} - {None}
    assert reasons == set(REASONS) and len(REASONS) <= 8


def test_the_page_lists_the_marks():
    text = TABLE.read_text()
    assert text == without_tables(text) + table_of_marks(), "run python -m tests.docs.blocks"


def test_the_readme_is_one_page():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


@pytest.mark.parametrize("page", PAGES)
def test_blocks_are_of_known_languages(page):
    assert {block.language for block in blocks_of(page)} <= {"", "python"}
    text = (ROOT / page).read_text()
    marks = re.findall("^<!-- not run", text, re.MULTILINE)
    assert len(marks) == sum(block.reason is not None for block in blocks_of(page))
    assert not re.search(r"^[ \t]+```", text, re.MULTILINE), "a block in a list would not be found"


@pytest.mark.parametrize("page", PAGES)
def test_keys_exist_also_where_nothing_runs(page):
    named = set(KEY.findall((ROOT / page).read_text()))
    assert named <= KEYS.keys()


@pytest.mark.parametrize("page", PAGES)
def test_figures_name_their_commands(page):
    text = (ROOT / page).read_text()
    for figure in re.findall(r"!\[.*?\]\((?:docs/)?(.*?)\)", text):
        made_by = {
            "attention.png": "docs/attention.py",
            "roc.png": "`make demo` drew",
            "contact_sheet.png": "--contact_sheet contact_sheet.png",
        }
        assert made_by[figure] in text
