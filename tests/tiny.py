"""`resnet_small` with two bottlenecks instead of four, which XLA compiles in half the time.

All tests use it, in their own process and in the programs that they start: `python tests/tiny.py
train.py ...` runs a program with it. tests/models tests the real `resnet_small`.
"""

import runpy
import sys
from importlib.machinery import PathFinder
from pathlib import Path

REGISTRY = "agcnn_jax.models.registry"


class _Finder:
    """Changes the registry when a program imports it; importing it here would take seconds."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != REGISTRY:
            return None
        spec = PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            module.BACKBONES["resnet_small"] = lambda **settings: module.ResNet(
                blocks=(1, 1), width=8, **settings
            )

        spec.loader.exec_module = exec_module
        return spec


def use():
    """Use it in this process, which must not have imported the registry."""
    assert REGISTRY not in sys.modules
    sys.meta_path.insert(0, _Finder)


if __name__ == "__main__":
    use()
    del sys.argv[0]
    if sys.argv[0] == "-m":
        del sys.argv[0]
        sys.path[0] = str(Path.cwd())
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(sys.argv[0]).absolute().parent)
        runpy.run_path(sys.argv[0], run_name="__main__")
