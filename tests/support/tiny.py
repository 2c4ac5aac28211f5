"""`resnet_small` with two bottlenecks instead of four, which XLA compiles in half the time.

All tests use it, in their own process and in the programs that they start:
`python tests/support/tiny.py train.py ...` runs a program with it. tests/models tests the real
`resnet_small`. Such programs draw ROC curves alone; tests/evaluation draws all figures.
"""

import functools
import runpy
import sys
from importlib.machinery import PathFinder
from pathlib import Path

REGISTRY = "agcnn_jax.models.registry"
DRAWING = "agcnn_jax.evaluation.figures.files"


class _Finder:
    """Changes modules when a program imports them; importing them here would take seconds."""

    def __init__(self, changes):
        self._changes = changes

    def find_spec(self, name, path=None, target=None):
        if name not in self._changes:
            return None
        spec = PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            self._changes[name](module)

        spec.loader.exec_module = exec_module
        return spec


def _two_bottlenecks(module):
    two_bottlenecks = {"blocks": (1, 1), "width": 8}
    module.BACKBONES["resnet_small"] = functools.partial(module._resnet, **two_bottlenecks)


def _roc_alone(module):
    def files(evaluation):
        roc = (evaluation.scored, evaluation.results, evaluation.cohort)
        return {"roc.png": module.encode(module.curves.roc_figure(*roc))}

    module.files = files


def use(all_figures=True):
    """Use it in this process, which must not have imported the registry."""
    assert REGISTRY not in sys.modules
    changes = {REGISTRY: _two_bottlenecks}
    if not all_figures:
        changes[DRAWING] = _roc_alone
    sys.meta_path.insert(0, _Finder(changes))


if __name__ == "__main__":
    use(all_figures=False)
    del sys.argv[0]
    if sys.argv[0] == "-m":
        del sys.argv[0]
        sys.path[0] = str(Path.cwd())
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(sys.argv[0]).absolute().parent)
        runpy.run_path(sys.argv[0], run_name="__main__")
