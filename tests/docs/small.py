"""Run a program of the pages on small data: what `.venv/bin/python` is where pages are tested."""

import os
import sys
from pathlib import Path

TINY = Path(__file__).parents[1] / "support/tiny.py"
SMALLER = {"--patients": "46", "--size": "64", "--image_size": "64", "--seeds": "1"}
"""Options that say how much is to be done, and the value that they get."""

if __name__ == "__main__":
    arguments = sys.argv[1:]
    for i, argument in enumerate(arguments[:-1]):
        if argument in SMALLER:
            arguments[i + 1] = SMALLER[argument]
    if arguments[0] == "data_prep/chestxray14.py" and "--image_size" not in arguments:
        arguments += ["--image_size", SMALLER["--image_size"]]
    if "demo" in arguments and arguments[0].endswith("train.py"):
        # The config of the package, not one of the clone's small ones.
        arguments += ["--config.max_steps=2"]
    program = [] if arguments[0] == "-c" else [str(TINY)]
    os.execv(sys.executable, [sys.executable, *program, *arguments])
