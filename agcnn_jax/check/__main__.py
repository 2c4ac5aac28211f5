"""Check hosts, network, storage and programs before a training, and say how long it will take.

    agcnn-check --config resnet --workdir W

Takes the options of agcnn-train, and starts on as many hosts. Ends with 2 if something fails.
"""

from __future__ import annotations

if __name__ == "__main__":
    # Before the imports that take seconds.
    from agcnn_jax.runtime.interrupt import end_quietly

    end_quietly()

from typing import NoReturn

from agcnn_jax.config import command_line
from agcnn_jax.config.check import check_overrides
from agcnn_jax.runtime.errors import USAGE_STATUS


def main() -> int:
    """Check what the command line names; 2 if something fails."""
    config, workdir, overrides = command_line.configured()
    check_overrides(overrides, config)
    from agcnn_jax.check.check import check

    return 0 if check(config, workdir) else USAGE_STATUS


def run() -> NoReturn:
    """Run the command as a program."""
    command_line.define_config_flags()
    command_line.run(main, about=__doc__)


if __name__ == "__main__":
    run()
