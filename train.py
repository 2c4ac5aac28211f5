"""Train AG-CNN stage by stage: python train.py --config configs/demo.py."""

from agcnn_jax import command_line


def main() -> None:
    """Parse the flags and train."""
    from agcnn_jax.training.loop import train

    config, workdir, _ = command_line.configured()
    train(config, workdir)


if __name__ == "__main__":
    command_line.define_config_flags()
    command_line.run(main, preemptible=True)
