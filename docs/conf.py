"""The site of these pages, which `make docs` builds with Sphinx in `build/site`."""

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

project = "agcnn-jax"
copyright = "The agcnn-jax developers"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]
smartquotes_action = "D"  # dashes alone: "" is an empty string
exclude_patterns = ["package.md"]  # what package indexes show
html_theme = "furo"
html_title = "agcnn-jax"
highlight_language = "bash"  # of blocks without a language, which are for the shell

myst_heading_anchors = 3
nb_execution_mode = "off"  # the notebook shows the outputs that are stored in it

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings say shapes and units, which types do not
autodoc_preserve_defaults = True
napoleon_use_ivar = True
default_role = "literal"  # docstrings write `name`, as Markdown does

MOVED = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""The site's pages that show a page of the top folder."""


def relink(text: str) -> str:
    """Point the links of a page in the repository to the pages of the site.

    Pages link to each other by their paths in the repository, so that they can be read there.
    """
    text = re.sub(r"\]\(docs/", "](", text)
    for name, page in MOVED.items():
        text = re.sub(rf"\]\((\.\./)?{re.escape(name)}", f"]({page}", text)
    return re.sub(r"\]\((LICENSE|CITATION\.cff)\)", r"](../\1)", text)


def _relink(app: Sphinx, *event: object) -> None:
    *_, content = event
    assert isinstance(content, list)
    content[0] = relink(content[0])


def setup(app: Sphinx) -> None:
    """Have Sphinx relink what it reads."""
    app.connect("source-read", _relink)
    app.connect("include-read", _relink)
