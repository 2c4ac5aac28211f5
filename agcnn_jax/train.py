"""Train AG-CNN stage by stage.

    agcnn-train --config demo
    agcnn-train --config mine.py --workdir runs/mine --config.data.dir=DATA --config.seed=1

The same command continues a training that was stopped.
"""

from typing import NoReturn

from agcnn_jax.config import command_line
from agcnn_jax.config.check import check_overrides


def main() -> None:
    """Parse the flags and train."""
    config, workdir, overrides = command_line.configured()
    check_overrides(overrides, config)
    from agcnn_jax.training.loop import train

    train(config, workdir)


def run() -> NoReturn:
    """Run the command as a program."""
    command_line.define_config_flags()
    command_line.run(main, about=__doc__, preemptible=True)
