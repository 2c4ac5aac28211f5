"""Run the paper's experiments, and write their tables and figures.

    agcnn-experiments table1|table2|table3|control|tau|detail|all --config demo

A stage that several runs share is trained once. The same command continues what was stopped.
"""

from __future__ import annotations

if __name__ == "__main__":
    # Before the imports that take seconds.
    from agcnn_jax.runtime.interrupt import end_quietly

    end_quietly()

from typing import NoReturn

from absl import flags

from agcnn_jax.config import command_line
from agcnn_jax.experiments.plan import ALL, EXPERIMENTS, NAMES, check_overruled, plan
from agcnn_jax.runtime.errors import UserError

DEFAULT_WORKDIR = "runs/experiments"


def main(*given: str) -> None:
    """Run the experiments that the command line names."""
    if len(given) != 1 or given[0] not in NAMES:
        what = f"{' '.join(given)!r} is no experiment" if given else "no experiment is named"
        raise UserError(f"{what}; use one of {', '.join(NAMES)}")
    names = tuple(EXPERIMENTS) if given[0] == ALL else (given[0],)
    config, workdir, overrides = command_line.configured(DEFAULT_WORKDIR)
    runs = plan(names, config, flags.FLAGS.seeds, flags.FLAGS.rows)
    check_overruled(runs, overrides)
    from agcnn_jax.experiments.report import run_experiments

    run_experiments(runs, workdir)


def run() -> NoReturn:
    """Run the command as a program."""
    command_line.define_config_flags(DEFAULT_WORKDIR)
    flags.DEFINE_integer(
        "seeds", 3, "Number of trainings of each row: seeds 0, 1 ...", lower_bound=1
    )
    flags.DEFINE_list("rows", [], "Rows to run, such as 0.1,0.7 of tau; all by default.")
    command_line.run(main, about=__doc__, preemptible=True, positionals=1)


if __name__ == "__main__":
    run()
