"""Speed of training and prediction beside the PyTorch twin's, in turn, on the data of a config.

    python benchmarks/outcome_speed.py --config FILE.py [--rounds 5] [--steps 30] [--out FILE.json]

Each side trains each stage from random weights as its own training does, with its own reading,
augmentation, attention and update, without validation and checkpoints; then it predicts. Both take
turns in one process: compilation and the first steps of a turn do not count. Prints medians over
the rounds in ms an image, on the clock and of all cores together, and how many times as fast ours
is. On a machine that does other work, compare one core's work, the second number, with
`OMP_NUM_THREADS=1 taskset -c 0 python ...`: threads that wait for one another otherwise burn their
cores, PyTorch's above all. It needs the extra `parity`.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import ml_collections
from absl import flags
from etils import epath

sys.path.append(str(Path(__file__).resolve().parents[1]))  # the package need not be installed

import torch
import train_twin
import twin_training
from reporting import table
from turns import (
    Seconds,
    Work,
    command,
    compile_stage,
    in_turn,
    open_random,
    prediction,
    read_config,
)

from agcnn_jax.config.strategies import Stage, stages
from agcnn_jax.models.agcnn import BRANCHES
from agcnn_jax.run.run import Run
from agcnn_jax.runtime.storage import write_json


def our_training(run: Run, stage: Stage, variables: Any) -> Work:
    """Make and compile a stage of this package."""
    _, step, state, frozen, batches, _ = compile_stage(run, stage, variables)

    def train(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            state, _ = step(state, frozen, next(batches))
        jax.block_until_ready(state)

    return train


def twin_training_of(network: Any, config: Any, branch: str, subset: Any) -> tuple[Work, int]:
    """Make the same stage of the twin, and tell its batch size."""
    plan = twin_training.make_plan(config, branch, len(subset.images))
    twin_training.freeze_others(network, plan)
    optimizer, schedule = twin_training.make_optimizer(network, config, plan)

    def train(steps: int) -> None:
        order = torch.randint(len(subset.images), (steps * plan.batch_size,))
        twin_training.train_batches(network, plan, optimizer, schedule, subset, order, config)

    return train, plan.batch_size


def compare(turns: Mapping[str, list[Seconds]], images: int) -> dict[str, Any]:
    """Return medians in ms an image of turns of `images`, and the twin's time over ours."""
    row: dict[str, Any] = {}
    for key in Seconds._fields:
        seconds = {side: [getattr(turn, key) for turn in each] for side, each in turns.items()}
        for side, each in seconds.items():
            row[f"{side}_{key}_ms"] = round(1e3 * statistics.median(each) / images, 3)
        ratios = [twin / ours for ours, twin in zip(seconds["ours"], seconds["twin"], strict=True)]
        row[f"{key}_ratio"] = round(statistics.median(ratios), 2)
    return row


def measure(config: ml_collections.ConfigDict, rounds: int, steps: int) -> dict[str, Any]:
    """Measure the stages and prediction."""
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        run, variables = open_random(config, folder)
        network = twin_training.make_network(config, len(run.records.labels))
        subset = train_twin.load(run.records, run.split.train)
        for stage in stages(config.strategy):
            ours = our_training(run, stage, variables)
            twin, batch = twin_training_of(network, config, stage.branches[0], subset)
            turns = in_turn({"ours": ours, "twin": twin}, rounds, steps)
            rows[stage.name] = compare(turns, steps * batch)
            print(f"{stage.name}: {rows[stage.name]}", flush=True)
        batch = config.eval_batch_size
        _, ours = prediction(run, variables)

        def twin_predicts(steps: int) -> None:
            twin_training.predict(network, subset.images[: steps * batch], config, BRANCHES)

        few = min(max(steps * 16 // batch, 1), len(run.split.train) // batch)
        turns = in_turn({"ours": ours, "twin": twin_predicts}, rounds, few)
        rows["prediction"] = compare(turns, few * batch)
        print(f"prediction: {rows['prediction']}", flush=True)
    return rows


def as_markdown(rows: dict[str, Any]) -> str:
    """Write the table."""
    titles = ["ms an image", "this package", "all cores", "PyTorch", "all cores", "ratio"]
    columns = [f"{side}_{key}_ms" for side in ("ours", "twin") for key in Seconds._fields]
    columns += ["clock_ratio", "cores_ratio"]
    cells = ([name, *(row[column] for column in columns)] for name, row in rows.items())
    return table([*titles, "all cores"], cells)


def main() -> None:
    """Measure, print and write."""
    config = read_config()
    train_twin.check_twin(config)
    rows = measure(config, flags.FLAGS.rounds, flags.FLAGS.steps)
    print(as_markdown(rows))
    if flags.FLAGS.out:
        machine = train_twin.describe_machine() | {"jax": jax.__version__}
        machine["OMP_WAIT_POLICY"] = os.environ.get("OMP_WAIT_POLICY")
        write_json(epath.Path(flags.FLAGS.out), {"machine": machine, "rows": rows})


if __name__ == "__main__":
    command(main, steps=30)
