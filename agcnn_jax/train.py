"""Train AG-CNN stage by stage: python train.py --config configs/demo.py."""

if __name__ == "__main__":
    # Before the imports that take seconds.
    from agcnn_jax.runtime.interrupt import end_quietly

    end_quietly()

from agcnn_jax.config import command_line
from agcnn_jax.config.check import check_overrides


def main() -> None:
    """Parse the flags and train."""
    config, workdir, overrides = command_line.configured()
    check_overrides(overrides, config)
    from agcnn_jax.training.loop import train

    train(config, workdir)


if __name__ == "__main__":
    command_line.define_config_flags()
    command_line.run(main, preemptible=True)
