"""The check with a process 1 whose clock, disk and arithmetic are wrong: -m tests.check.broken."""

import os
import sys
import time

import jax
import numpy as np

from agcnn_jax.check import __main__ as command
from agcnn_jax.config import command_line


def main():
    """Break process 1, and check."""
    from agcnn_jax.check import hosts, program, storage
    from agcnn_jax.runtime.devices import replicate

    read, run_steps, clock = storage.records_a_second, program.run_steps, time.time

    def read_slowly(*given):
        return read(*given) / 100

    def run_wrongly(step, state, frozen, batches, count):
        state, losses, seconds = run_steps(step, state, frozen, batches, count)
        local = jax.tree.map(np.asarray, state)
        mesh = jax.tree.leaves(state)[0].sharding.mesh
        return replicate(mesh, jax.tree.map(lambda leaf: leaf + 1, local)), losses, seconds

    if jax.process_index() == 1:
        storage.records_a_second = read_slowly
        program.run_steps = run_wrongly
        hosts.time = type("time", (), {"time": lambda: clock() + 5})
    return command.main()


if __name__ == "__main__":
    sys.argv[0] = os.path.join("check", "__main__.py")
    command_line.define_config_flags()
    command_line.run(main)
