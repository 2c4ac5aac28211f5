"""Train AG-CNN stage by stage.

    agcnn-train --config demo
    agcnn-train --config mine.py --workdir runs/mine --config.data.dir=DATA --config.seed=1

The same command continues a training that was stopped.
"""

from typing import NoReturn

from absl import flags

from agcnn_jax.config import command_line
from agcnn_jax.config.check import check_overrides
from agcnn_jax.runtime.errors import USAGE_STATUS


def main() -> int:
    """Parse the flags, check if asked to, and train; 2 if the check fails."""
    config, workdir, overrides = command_line.configured()
    check_overrides(overrides, config)
    if flags.FLAGS.check_first:
        from agcnn_jax.check.check import check

        if not check(config, workdir):
            return USAGE_STATUS
    from agcnn_jax.training.loop import train

    train(config, workdir)
    return 0


def define_flags() -> None:
    """Define the flags of training."""
    command_line.define_config_flags()
    flags.DEFINE_boolean(
        "check_first", False, "Check hosts, network, storage and programs before the first step."
    )


def run() -> NoReturn:
    """Run the command as a program."""
    define_flags()
    command_line.run(main, about=__doc__, preemptible=True)


if __name__ == "__main__":
    run()
