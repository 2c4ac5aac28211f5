"""`train.py` with a second per batch of validation: python -m tests.pods.slow_validation."""

import sys
import time

from agcnn_jax import train
from agcnn_jax.config import command_line


def main():
    """Train with a slow validation."""
    from agcnn_jax.training import prediction

    make = prediction.make_predict_step

    def make_slow(*arguments):
        step = make(*arguments)

        def slow(*given):
            time.sleep(1)
            return step(*given)

        return slow

    prediction.make_predict_step = make_slow
    train.main()


if __name__ == "__main__":
    sys.argv[0] = "train.py"
    train.define_flags()
    command_line.run(main, preemptible=True)
