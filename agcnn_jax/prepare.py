"""Prepare what a network is trained on.

    agcnn-prepare phantoms --out_dir data/phantoms_raw --patients 2400 --size 128
    agcnn-prepare chestxray14 --raw_dir data/phantoms_raw --data_dir data/phantoms

Each command says more: agcnn-prepare COMMAND --help
"""

from __future__ import annotations

import importlib
import sys
from typing import NoReturn

from agcnn_jax.runtime import errors
from agcnn_jax.runtime.errors import OneLineParser

COMMANDS = {
    "phantoms": "draw synthetic radiographs in the layout of ChestX-ray14",
    "chestxray14": "make a data set of NIH's images, or of phantoms",
    "from_csv": "make a data set of films in any folder and a table of labels",
    "torch_weights": "convert PyTorch weights, or export trained ones",
}
"""The modules of `data_prep` that are commands."""


def main() -> None:
    """Answer `--help` and `--version`; `UserError` unless one of the commands is named."""
    commands = "\n".join(f"  {name:14}{what}" for name, what in COMMANDS.items())
    parser = OneLineParser(about=f"{__doc__}\ncommands:\n{commands}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those above")
    parser.parse_args(sys.argv[1:2])


def run() -> NoReturn:
    """Run the command as a program."""
    sys.argv[0] = "agcnn-prepare"
    name, *rest = sys.argv[1:] or [""]
    if name not in COMMANDS:
        errors.run(main)
    sys.argv[:] = [f"agcnn-prepare {name}", *rest]
    importlib.import_module(f"agcnn_jax.data_prep.{name}").run()
    raise AssertionError(f"run of {name} returned")


if __name__ == "__main__":
    run()
