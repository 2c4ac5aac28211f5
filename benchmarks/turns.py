"""A run with random weights, and work in turns, for `feeding.py` and `outcome_speed.py`."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import ml_collections
from absl import flags
from etils import epath

from agcnn_jax.config import command_line
from agcnn_jax.config.check import check_overrides
from agcnn_jax.config.strategies import Stage
from agcnn_jax.models.agcnn import BRANCHES, init_variables, select_branches
from agcnn_jax.run.run import Run, open_run
from agcnn_jax.runtime.compilation_cache import keep_compilations
from agcnn_jax.runtime.devices import replicate
from agcnn_jax.training.fit import compile_step, open_batches
from agcnn_jax.training.predict_step import make_predict_step
from agcnn_jax.training.prediction import predict
from agcnn_jax.training.schedule import Schedule, make_schedule
from agcnn_jax.training.steps import init_state

WARM_UP = 3
"""Steps of a turn that do not count: they use up what was read ahead during the other's turn."""

Work = Callable[[int], None]  # does so many steps


class Seconds(NamedTuple):
    """The time that the steps of a turn took."""

    clock: float
    cores: float  # of all cores together


def in_turn(works: Mapping[str, Work], rounds: int, steps: int) -> dict[str, list[Seconds]]:
    """Let each work do its steps, one after another, in every round; return the seconds a turn."""
    turns: dict[str, list[Seconds]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            work(WARM_UP)
            clock, cores = time.perf_counter(), time.process_time()
            work(steps)
            turns[name].append(Seconds(time.perf_counter() - clock, time.process_time() - cores))
    return turns


class CompiledStage(NamedTuple):
    """A stage of training: `state, metrics = step(state, frozen, next(batches))`."""

    schedule: Schedule
    step: Callable[..., Any]
    state: Any
    frozen: Any
    batches: Iterator[Any]
    first_batch: Any


def compile_stage(run: Run, stage: Stage, variables: Any) -> CompiledStage:
    """Compile a stage of training that starts from these variables."""
    schedule = make_schedule(run, stage)
    others = tuple(branch for branch in BRANCHES if branch not in stage.branches)
    frozen = replicate(run.mesh, select_branches(variables, others))
    trained = select_branches(variables, stage.branches)
    state = replicate(run.mesh, init_state(trained, schedule.optimizer))
    batches = open_batches(run, schedule, frozen)
    batch = next(batches)
    step = compile_step(run, schedule, state, frozen, batch)
    return CompiledStage(schedule, step, state, frozen, batches, batch)


def prediction(run: Run, variables: Any) -> tuple[Callable[[Any], Any], Work]:
    """Make the prediction step of all branches, and the prediction of so many training batches."""
    step = make_predict_step(run.recipe, run.mesh, BRANCHES)
    placed, batch = replicate(run.mesh, variables), run.config.eval_batch_size

    def whole(steps: int) -> None:
        predict(step, placed, run, run.split.train[: steps * batch], "prediction")

    return functools.partial(step, placed), whole


def open_random(config: ml_collections.ConfigDict, folder: str) -> tuple[Run, Any]:
    """Open a run, and draw weights for it."""
    keep_compilations()
    run = open_run(config, epath.Path(folder))
    model, size = run.recipe.model, config.input_size
    draw = jax.jit(functools.partial(init_variables, model, input_size=size))
    return run, jax.device_get(draw(jax.random.key(0)))


def read_config() -> ml_collections.ConfigDict:
    """Return the command line's config; `UserError` if it sets a key that nothing reads."""
    config, _, overrides = command_line.configured()
    check_overrides(overrides, config)
    return config


def command(main: Callable[[], None], steps: int) -> None:
    """Run a command with a config, `--rounds`, `--steps` and `--out`."""
    command_line.define_config_flags()
    flags.DEFINE_integer("rounds", 5, "Turns of each side.", lower_bound=1)
    flags.DEFINE_integer("steps", steps, "Steps of a turn.", lower_bound=1)
    flags.DEFINE_string("out", None, "JSON file for the figures.")
    command_line.run(main)
