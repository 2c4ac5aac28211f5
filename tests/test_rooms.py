"""The folders of agcnn_jax import only from themselves and from those below them."""

import ast
import itertools

import pytest

from agcnn_jax.runtime.errors import TRAIN
from tests.support.programs import ROOT, run

PACKAGE = "agcnn_jax"
ROOMS = (
    "runtime",
    "metrics",
    "attention",
    "data",
    "models",
    "config",
    "run",
    "interop",
    "training",
    "portable",
    "check",
    "evaluation",
    "inference",
    "experiments",
    "configs",
    "data_prep",
)
"""From the ground up; the package's own modules are commands, and import any of them."""

OWN = "."
"""Stands for the modules of a room itself, in an order of folders inside it."""

SUB_ROOMS = {
    "data": (OWN, "tables"),
    "evaluation": ("files", "scoring", "auc", "findings", "localisation", "figures", "report", OWN),
    "data_prep": ("prepare", "phantom", "nih", "films", OWN),
}
"""Folders inside rooms, from the ground up."""

OUTSIDE = {"benchmarks", "configs", "data_prep", "docs", "eval", "tests", "train"}
"""The rest of the repository, which the package does not import."""


def imported(text, package):
    """Yield the line and the full name of each import, those inside functions included.

    Args:
        text: source of a module.
        package: the package that the module is in, for relative imports.
    """
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = parts[: len(parts) + 1 - node.level] if node.level else []
            base += [node.module] if node.module else []
            yield from ((node.lineno, ".".join([*base, alias.name])) for alias in node.names)


def above(place, name):
    """Tell whether a module at `place`, parts of its path, may not import `name` from above it."""
    orders = {(): (*ROOMS, OWN), **{(room,): order for room, order in SUB_ROOMS.items()}}
    for parents, order in orders.items():
        depth = len(parents)
        if place[:depth] != parents or name[:depth] != parents or len(name) <= depth:
            continue
        here = place[depth] if len(place) > depth + 1 else OWN
        there = name[depth] if name[depth] in order else OWN
        if order.index(there) > order.index(here):
            # A name of the package that is no folder, such as its version, is for all.
            return depth > 0 or there != OWN
    return False


def offences(root):
    """List the imports under `root/agcnn_jax` that go upwards or leave the package."""
    found = []
    for path in sorted((root / PACKAGE).rglob("*.py")):
        where = path.relative_to(root)
        for line, name in imported(path.read_text(), ".".join(where.parts[:-1])):
            top, *rest = name.split(".")
            upwards = top == PACKAGE and rest and above(where.parts[1:], tuple(rest))
            if upwards or top in OUTSIDE:
                found.append(f"{where}:{line} imports {name}")
    return found


def circles(root, folder):
    """List the pairs of modules of one folder below `root` that import each other."""
    package = ".".join(folder.relative_to(root).parts)
    modules = {path.stem: path.read_text() for path in folder.glob("*.py")}
    neighbours = {
        name: {
            other
            for _, target in imported(text, package)
            for other in modules
            if f"{target}.".startswith(f"{package}.{other}.")
        }
        for name, text in modules.items()
    }

    def reach(name, visited):
        for other in neighbours[name] - visited:
            visited |= {other} | reach(other, visited | {other})
        return visited

    reached = {name: reach(name, set()) for name in modules}
    pairs = itertools.combinations(sorted(modules), 2)
    return [(a, b) for a, b in pairs if b in reached[a] and a in reached[b]]


def test_every_folder_has_its_place():
    folders = {path.parent.relative_to(ROOT / PACKAGE) for path in ROOT.glob(f"{PACKAGE}/**/*.py")}
    assert {folder.parts[0] for folder in folders if folder.parts} == set(ROOMS)
    inside = {folder.parts[:2] for folder in folders if len(folder.parts) > 1}
    assert inside == {(room, one) for room, order in SUB_ROOMS.items() for one in order} - {
        (room, OWN) for room in SUB_ROOMS
    }


def test_imports_go_down():
    assert not offences(ROOT)


def test_no_circle_in_a_folder():
    """Imports inside functions and for types count too."""
    folders = sorted({path.parent for path in (ROOT / PACKAGE).rglob("*.py")})
    assert not {str(folder): found for folder in folders if (found := circles(ROOT, folder))}


def test_a_circle_is_noticed(tmp_path):
    folder = tmp_path / PACKAGE / "data"
    folder.mkdir(parents=True)
    (folder / "a.py").write_text("from agcnn_jax.data.b import x")
    (folder / "b.py").write_text("def f():\n  from . import c")
    (folder / "c.py").write_text("import agcnn_jax.data.a, agcnn_jax.data.d")
    (folder / "d.py").write_text("")
    assert circles(tmp_path, folder) == [("a", "b"), ("a", "c"), ("b", "c")]


@pytest.mark.parametrize(
    ("where", "text", "name"),
    [
        ("data/a.py", "import agcnn_jax.models.resnet", "agcnn_jax.models.resnet"),
        ("data/a.py", "from agcnn_jax.models import resnet", "agcnn_jax.models.resnet"),
        ("data/a.py", "from agcnn_jax import models", "agcnn_jax.models"),
        ("data/a.py", "from ..models.resnet import ResNet", "agcnn_jax.models.resnet.ResNet"),
        ("data/a.py", "from .. import models", "agcnn_jax.models"),
        ("data/b/a.py", "def f():\n  from ...models import x", "agcnn_jax.models.x"),
        ("evaluation/a.py", "if TYPE_CHECKING:\n  import data_prep.nih", "data_prep.nih"),
        ("predict.py", "from configs import common", "configs.common"),
        (
            "evaluation/auc/a.py",
            "import agcnn_jax.evaluation.report",
            "agcnn_jax.evaluation.report",
        ),
        (
            "evaluation/auc/a.py",
            "from agcnn_jax.evaluation.write import x",
            "agcnn_jax.evaluation.write.x",
        ),
        ("evaluation/auc/a.py", "from agcnn_jax.evaluation.auc.b import x", None),
        ("evaluation/auc/a.py", "from agcnn_jax.evaluation.files import table", None),
        ("evaluation/write.py", "from agcnn_jax.evaluation.report import report", None),
        (
            "data/a.py",
            "from agcnn_jax.data.tables.b import x",
            "agcnn_jax.data.tables.b.x",
        ),
        ("data/tables/a.py", "from agcnn_jax.data.text import x", None),
        ("data/tables/a.py", "import agcnn_jax.models.resnet", "agcnn_jax.models.resnet"),
        ("data/a.py", "from agcnn_jax.data import b", None),
        ("data/a.py", "from . import b", None),
        ("data/a.py", "from agcnn_jax.runtime.errors import UserError", None),
        ("data/a.py", "import agcnn_jax, numpy.training", None),
        ("predict.py", "from agcnn_jax.evaluation import tables", None),
    ],
)
def test_an_offence_is_noticed(tmp_path, where, text, name):
    path = tmp_path / PACKAGE / where
    path.parent.mkdir(parents=True)
    path.write_text(text)
    ends = [offence.split(" imports ")[1] for offence in offences(tmp_path)]
    assert ends == ([name] if name else [])


def test_steps_and_prediction_need_no_extra():
    """A benchmark of the steps runs where those packages are not installed; flax brings optax."""
    blocked = tuple(set(TRAIN) - {"optax"})
    modules = ("training.steps", "training.host_crop", "training.schedule", "models.registry")
    modules += ("predict", "inference.load", "inference.stream", "inference.overlay")
    run(
        "-c",
        f"import sys; sys.modules.update(dict.fromkeys({blocked}))\n"
        + "\n".join(f"import {PACKAGE}.{module}" for module in modules),
    )
