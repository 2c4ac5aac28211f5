"""Reading, cropping and logging beside the devices' own speed: stages, and prediction.

    python benchmarks/feeding.py --config FILE.py [--rounds 5] [--steps 40] [--out FILE.json]

Each stage trains as `train.py` does, with reading, the host cropper and the log, without validation
and checkpoints; in turn, the same step trains on one batch that lies on the devices already. Where
the host crops, that batch goes through the cropper again before each step, since this is part of
the stage's work. Then prediction runs as in validation and `eval.py`, and in turn on such a batch.
Prints images per second, medians over the rounds, and the median ratio of both.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from absl import flags

sys.path.append(str(Path(__file__).resolve().parents[1]))  # the package need not be installed

from reporting import describe_machine, spread, write_rows
from turns import Seconds, command, compile_stage, in_turn, open_random, prediction, read_config

from agcnn_jax.config.strategies import Stage, stages
from agcnn_jax.data.pipeline import training_batches
from agcnn_jax.run.run import Run
from agcnn_jax.runtime.devices import shard_batch
from agcnn_jax.training.host_crop import make_host_cropper
from agcnn_jax.training.record import Record


def rates(turns: Mapping[str, list[Seconds]], images: int) -> dict[str, Any]:
    """Compute images per second of turns of `images`, and the ratio of the first to the second."""
    rows = {name: [images / turn.clock for turn in each] for name, each in turns.items()}
    ratios = [a / b for a, b in zip(*rows.values(), strict=True)]
    return {name: spread(row) for name, row in rows.items()} | {
        "ratio": round(statistics.median(ratios), 3)
    }


def measure_stage(
    run: Run, stage: Stage, variables: Any, rounds: int, steps: int
) -> dict[str, Any]:
    """Measure a stage of training."""
    compiled = compile_stage(run, stage, variables)
    schedule, batches, batch = compiled.schedule, compiled.batches, compiled.first_batch
    make_batch: Callable[[], Any] = lambda: batch  # noqa: E731
    if "local_images" in batch:
        source = run.records.images_and_labels()
        stored = training_batches(source, run.split.train, schedule.batch_size, 0)[0]
        crop = make_host_cropper(run.recipe.for_stage(stage), compiled.frozen, run.mesh)
        make_batch = lambda: crop(stored)  # noqa: E731
    state, steps_before = compiled.state, 0

    def train(count: int, next_batch: Callable[[], Any], hold: Callable[..., None]) -> None:
        nonlocal state, steps_before
        for _ in range(count):
            state, metrics = compiled.step(state, compiled.frozen, next_batch())
            hold(steps_before % schedule.total_steps + 1, metrics)
            steps_before += 1
        jax.block_until_ready(state)

    with contextlib.closing(batches):  # type: ignore[type-var]
        # Nothing is validated or saved here, so it needs no checkpoints.
        record = Record(run, schedule, None, 0, False, lambda: False)  # type: ignore[arg-type]
        with record:
            works = {
                "fed": lambda count: train(count, lambda: next(batches), record.hold),
                "resident": lambda count: train(count, make_batch, lambda *_: None),
            }
            return rates(in_turn(works, rounds, steps), steps * schedule.batch_size)


def measure_prediction(run: Run, variables: Any, rounds: int, steps: int) -> dict[str, Any]:
    """Measure prediction with all branches."""
    batch, indices = run.config.eval_batch_size, run.split.train
    step, whole = prediction(run, variables)
    source = run.records.images_and_labels()
    images = shard_batch(run.mesh, training_batches(source, indices, batch, 0)[0]["image"])

    def bare(count: int) -> None:
        for _ in range(count):
            jax.block_until_ready(step(images))

    steps = min(steps, len(indices) // batch)
    turns = in_turn({"fed": whole, "resident": bare}, rounds, steps)
    return rates(turns, steps * batch)


def main() -> None:
    """Measure, print and write."""
    config, options, rows = read_config(), flags.FLAGS, []
    with tempfile.TemporaryDirectory() as folder:
        run, variables = open_random(config, folder)
        for stage in stages(config.strategy):
            rate = measure_stage(run, stage, variables, options.rounds, options.steps)
            rows.append({"part": f"stage {stage.name}", **rate})
            print(rows[-1], flush=True)
        # As many images as a validation has: starting to read counts as it does there.
        steps = max(1, options.steps * 32 // config.eval_batch_size)
        rate = measure_prediction(run, variables, options.rounds, steps)
        rows.append({"part": "prediction", **rate})
        print(rows[-1], flush=True)
    if options.out:
        facts = {"what": __doc__.split("\n")[0], "unit": "images per second"}
        facts |= {"backbone": config.backbone, "input_size": config.input_size}
        write_rows(Path(options.out), facts | describe_machine("jax", "grain"), rows)


if __name__ == "__main__":
    command(main, steps=40)
