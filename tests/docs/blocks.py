"""The blocks of the pages: shell commands and Python that a test runs, and those with a mark.

`python -m tests.docs.blocks` writes the table of marks in docs/tested.md again.
"""

import re
from typing import NamedTuple

from tests.support.programs import ROOT

PAGES = tuple(
    str(path.relative_to(ROOT))
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md")))
)
TABLE = ROOT / "docs/tested.md"

REASONS = {
    "download": "it downloads packages or weights, or needs files that others have",
    "cluster": "it needs several hosts, a cloud or a container registry",
    "account": "it needs an account on the Hugging Face hub",
    "tests": "it runs the tests themselves",
    "full size": "it makes sense only with data or trainings of full size, which take hours",
}
"""Why a block may have a mark."""

_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]*) -->\n+)?```(?P<language>[^\n`]*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_SHOWN = {"text"}


class Block(NamedTuple):
    """A block of a page.

    Attributes:
        page: its path in the repository.
        language: "" for the shell, or "python".
        text: its lines.
        reason: why no test runs it; None without a mark.
    """

    page: str
    language: str
    text: str
    reason: str | None


def blocks_of(page: str) -> list[Block]:
    """Return the blocks of a page that are to be run or have a mark, in their order."""
    found = _BLOCK.finditer((ROOT / page).read_text())
    blocks = [Block(page, one["language"], one["text"], one["reason"]) for one in found]
    return [
        block for block in blocks
        if block.language not in _SHOWN and not block.language.startswith("{")
    ]  # fmt: skip


def table_of_marks() -> str:
    """Make the tables of docs/tested.md: the reasons, and the blocks with a mark."""
    lines = ["| reason | meaning |", "| --- | --- |"]
    lines += [f"| `{reason}` | {meaning} |" for reason, meaning in REASONS.items()]
    lines += [
        "",
        "These blocks have one:",
        "",
        "| page | first line | reason |",
        "| --- | --- | --- |",
    ]
    for block in (block for page in PAGES for block in blocks_of(page) if block.reason):
        page = block.page.removeprefix("docs/")
        link = page if page != block.page else f"../{page}"
        first = block.text.splitlines()[0].removesuffix("\\").partition(" #")[0].strip()
        lines.append(f"| [{page}]({link}) | `{first}` | `{block.reason}` |")
    return "\n".join(lines) + "\n"


def without_tables(text: str) -> str:
    """Return the part of docs/tested.md before the tables."""
    return text[: text.index("| reason |")] if "| reason |" in text else text


if __name__ == "__main__":
    TABLE.write_text(without_tables(TABLE.read_text()) + table_of_marks())
