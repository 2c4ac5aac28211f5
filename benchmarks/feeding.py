"""Whether reading, cropping and logging keep up with the devices: stages, and prediction.

    python benchmarks/feeding.py --config FILE.py [--rounds 5] [--steps 40] [--out FILE.json]

Each stage trains as `train.py` does, with reading, the host cropper and the log, without validation
and checkpoints; in turn, the same step trains on one batch that lies on the devices already. Where
the host crops, that batch goes through the cropper again before each step, since this is part of
the stage's work. Then prediction runs as in validation and `eval.py`, and in turn on such a batch.
Prints images per second, medians over the rounds, and the median ratio of both.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from absl import flags
from etils import epath

sys.path.append(str(Path(__file__).resolve().parents[1]))  # the package need not be installed

from machine import describe_machine, spread

from agcnn_jax.config import command_line
from agcnn_jax.config.check import check_overrides
from agcnn_jax.config.strategies import Stage, stages
from agcnn_jax.data.pipeline import training_batches
from agcnn_jax.models.agcnn import BRANCHES, init_variables, select_branches
from agcnn_jax.run.run import Run, open_run
from agcnn_jax.runtime.compilation_cache import keep_compilations
from agcnn_jax.runtime.devices import replicate, shard_batch
from agcnn_jax.training.fit import compile_step, open_batches
from agcnn_jax.training.host_crop import make_host_cropper
from agcnn_jax.training.predict_step import make_predict_step
from agcnn_jax.training.prediction import predict
from agcnn_jax.training.record import Record
from agcnn_jax.training.schedule import make_schedule
from agcnn_jax.training.steps import init_state

WARM_UP = 3
"""Steps of a turn that do not count: they use up what was read ahead during the other's turn."""

Work = Callable[[int], None]  # does so many steps


def in_turn(fed: Work, resident: Work, rounds: int, steps: int, images: int) -> dict[str, Any]:
    """Time both in turn; `images` a step."""
    rates: dict[str, list[float]] = {"fed": [], "resident": []}
    for _ in range(rounds):
        for name, work in (("fed", fed), ("resident", resident)):
            work(WARM_UP)
            start = time.perf_counter()
            work(steps)
            rates[name].append(steps * images / (time.perf_counter() - start))
    ratios = [a / b for a, b in zip(*rates.values(), strict=True)]
    return {name: spread(each) for name, each in rates.items()} | {
        "ratio": round(statistics.median(ratios), 3)
    }


def measure_stage(
    experiment: Run, stage: Stage, variables: Any, rounds: int, steps: int
) -> dict[str, Any]:
    """Measure a stage of training."""
    mesh, schedule = experiment.mesh, make_schedule(experiment, stage)
    others = tuple(branch for branch in BRANCHES if branch not in stage.branches)
    frozen = replicate(mesh, select_branches(variables, others))
    trained = select_branches(variables, stage.branches)
    state = replicate(mesh, init_state(trained, schedule.optimizer))
    batches = open_batches(experiment, schedule, frozen)
    held = next(batches)
    step = compile_step(experiment, schedule, state, frozen, held)
    make_batch: Callable[[], Any] = lambda: held  # noqa: E731
    if "local_images" in held:
        source, recipe = experiment.records.images_and_labels(), experiment.recipe
        chosen = experiment.split.train, schedule.batch_size, 0
        stored = training_batches(source, *chosen)[0]
        crop = make_host_cropper(recipe.for_stage(stage), frozen, mesh)
        make_batch = lambda: crop(stored)  # noqa: E731
    done = 0

    def train(count: int, next_batch: Callable[[], Any], hold: Callable[..., None]) -> None:
        nonlocal state, done
        for _ in range(count):
            state, metrics = step(state, frozen, next_batch())
            hold(done % schedule.total_steps + 1, metrics)
            done += 1
        jax.block_until_ready(state)

    with contextlib.closing(batches):
        # Nothing is validated or saved here, so it needs no checkpoints.
        record = Record(experiment, schedule, None, 0, False, lambda: False)  # type: ignore[arg-type]
        with record:
            return in_turn(
                lambda count: train(count, lambda: next(batches), record.hold),
                lambda count: train(count, make_batch, lambda *_: None),
                rounds,
                steps,
                schedule.batch_size,
            )


def measure_prediction(experiment: Run, variables: Any, rounds: int, steps: int) -> dict[str, Any]:
    """Measure prediction with all branches."""
    batch, mesh = experiment.config.eval_batch_size, experiment.mesh
    step = make_predict_step(experiment.recipe, mesh, BRANCHES)
    placed, indices = replicate(mesh, variables), experiment.split.train
    steps = min(steps, len(indices) // batch)
    source = experiment.records.images_and_labels()
    held = shard_batch(mesh, training_batches(source, indices, batch, 0)[0]["image"])

    def bare(count: int) -> None:
        for _ in range(count):
            jax.block_until_ready(step(placed, held))

    def whole(count: int) -> None:
        predict(step, placed, experiment, indices[: count * batch], "prediction")

    return in_turn(whole, bare, rounds, steps, batch)


def main() -> None:
    """Measure, print and write."""
    config, _, overrides = command_line.configured()
    check_overrides(overrides, config)
    keep_compilations()
    given, rows = flags.FLAGS, []
    with tempfile.TemporaryDirectory() as folder:
        experiment = open_run(config, epath.Path(folder))
        model, size = experiment.recipe.model, config.input_size
        draw = jax.jit(lambda key: init_variables(model, key, input_size=size))
        variables = jax.device_get(draw(jax.random.key(0)))
        for stage in stages(config.strategy):
            found = measure_stage(experiment, stage, variables, given.rounds, given.steps)
            rows.append({"part": f"stage {stage.name}", **found})
            print(rows[-1], flush=True)
        # As many images as a validation has: starting to read counts as it does there.
        steps = max(1, given.steps * 32 // config.eval_batch_size)
        found = measure_prediction(experiment, variables, given.rounds, steps)
        rows.append({"part": "prediction", **found})
        print(rows[-1], flush=True)
    if given.out:
        what = {"what": __doc__.split("\n")[0], "unit": "images per second"}
        what |= {"backbone": config.backbone, "input_size": config.input_size}
        made = describe_machine("jax", "grain") | {"rows": rows}
        Path(given.out).write_text(json.dumps(what | made, indent=1) + "\n")


if __name__ == "__main__":
    command_line.define_config_flags()
    flags.DEFINE_integer("rounds", 5, "Turns of each side.", lower_bound=1)
    flags.DEFINE_integer("steps", 40, "Steps of a turn.", lower_bound=1)
    flags.DEFINE_string("out", None, "JSON file for the figures.")
    command_line.run(main)
