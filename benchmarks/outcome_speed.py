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

import functools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_collections
from absl import flags
from etils import epath

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # the package need not be installed

import torch  # noqa: E402
import train_twin  # noqa: E402
import twin_training  # noqa: E402

from agcnn_jax.config import command_line  # noqa: E402
from agcnn_jax.config.check import check_overrides  # noqa: E402
from agcnn_jax.config.strategies import Stage, stages  # noqa: E402
from agcnn_jax.models.agcnn import BRANCHES, init_variables, select_branches  # noqa: E402
from agcnn_jax.run.run import Run, open_run  # noqa: E402
from agcnn_jax.runtime.compilation_cache import keep_compilations  # noqa: E402
from agcnn_jax.runtime.devices import replicate  # noqa: E402
from agcnn_jax.runtime.storage import write_json  # noqa: E402
from agcnn_jax.training.fit import compile_step, open_batches  # noqa: E402
from agcnn_jax.training.predict_step import make_predict_step  # noqa: E402
from agcnn_jax.training.prediction import predict  # noqa: E402
from agcnn_jax.training.schedule import make_schedule  # noqa: E402
from agcnn_jax.training.steps import init_state  # noqa: E402

WARM_UP = 3
"""Steps of a turn that do not count: they use up what was read ahead during the other's turn."""

Work = Callable[[int], None]  # does so many steps


def our_training(experiment: Run, stage: Stage, variables: Any) -> Work:
    """Make and compile a stage of this package."""
    mesh, schedule = experiment.mesh, make_schedule(experiment, stage)
    others = tuple(branch for branch in BRANCHES if branch not in stage.branches)
    frozen = replicate(mesh, select_branches(variables, others))
    trained = select_branches(variables, stage.branches)
    state = replicate(mesh, init_state(trained, schedule.optimizer))
    batches = open_batches(experiment, schedule, frozen)
    step = compile_step(experiment, schedule, state, frozen, next(batches))

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
    made = twin_training.make_optimizer(network, config, plan)

    def train(steps: int) -> None:
        order = torch.randint(len(subset.images), (steps * plan.batch_size,))
        twin_training.train_batches(network, plan, *made, subset, order, config)

    return train, plan.batch_size


def in_turn(ours: Work, twin: Work, rounds: int, steps: int, images: int) -> dict[str, Any]:
    """Time both in turn; return medians in ms an image of `images` images a step."""
    times: dict[str, list[tuple[float, float]]] = {"ours": [], "twin": []}
    for _ in range(rounds):
        for name, work in (("ours", ours), ("twin", twin)):
            work(WARM_UP)
            clock, cores = time.perf_counter(), time.process_time()
            work(steps)
            times[name].append((time.perf_counter() - clock, time.process_time() - cores))
    found: dict[str, Any] = {}
    for column, key in enumerate(("clock", "cores")):
        taken = {name: [row[column] for row in rows] for name, rows in times.items()}
        found |= {
            f"{name}_{key}_ms": round(1e3 * statistics.median(each) / steps / images, 3)
            for name, each in taken.items()
        }
        ratios = [b / a for a, b in zip(taken["ours"], taken["twin"], strict=True)]
        found[f"{key}_ratio"] = round(statistics.median(ratios), 2)
    return found


def measure(config: ml_collections.ConfigDict, rounds: int, steps: int) -> dict[str, Any]:
    """Measure the stages and prediction."""
    keep_compilations()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        experiment = open_run(config, epath.Path(folder))
        records, model = experiment.records, experiment.recipe.model
        draw = jax.jit(functools.partial(init_variables, model, input_size=config.input_size))
        variables = jax.device_get(draw(jax.random.key(0)))
        network = twin_training.make_network(config, len(records.labels))
        subset = train_twin.load(records, experiment.split.train)
        for stage in stages(config.strategy):
            ours = our_training(experiment, stage, variables)
            twin, batch = twin_training_of(network, config, stage.branches[0], subset)
            found[stage.name] = in_turn(ours, twin, rounds, steps, batch)
            print(f"{stage.name}: {found[stage.name]}", flush=True)
        batch = config.eval_batch_size
        step = make_predict_step(experiment.recipe, experiment.mesh, BRANCHES)
        placed = replicate(experiment.mesh, variables)
        indices = experiment.split.train

        def ours_predicts(steps: int) -> None:
            predict(step, placed, experiment, indices[: steps * batch], "prediction")

        def twin_predicts(steps: int) -> None:
            twin_training.predict(network, subset.images[: steps * batch], config, BRANCHES)

        few = min(max(steps * 16 // batch, 1), len(indices) // batch)
        found["prediction"] = in_turn(ours_predicts, twin_predicts, rounds, few, batch)
        print(f"prediction: {found['prediction']}", flush=True)
    return found


def as_markdown(found: dict[str, Any]) -> str:
    """Write the table."""
    lines = [
        "| ms an image | this package | all cores | PyTorch | all cores | ratio | all cores |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in found.items():
        cells = [row[f"{side}_{key}_ms"] for side in ("ours", "twin") for key in ("clock", "cores")]
        cells += [row["clock_ratio"], row["cores_ratio"]]
        lines.append(f"| {name} | {' | '.join(str(cell) for cell in cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    config, _, overrides = command_line.configured()
    check_overrides(overrides, config)
    train_twin.check_twin(config)
    found = measure(config, flags.FLAGS.rounds, flags.FLAGS.steps)
    print(as_markdown(found))
    if flags.FLAGS.out:
        out = epath.Path(flags.FLAGS.out)
        machine = train_twin.describe_machine() | {"jax": jax.__version__}
        machine["OMP_WAIT_POLICY"] = os.environ.get("OMP_WAIT_POLICY")
        write_json(out, {"machine": machine, "rows": found})


if __name__ == "__main__":
    command_line.define_config_flags()
    flags.DEFINE_integer("rounds", 5, "Turns of each side.", lower_bound=1)
    flags.DEFINE_integer("steps", 30, "Steps of a turn.", lower_bound=1)
    flags.DEFINE_string("out", None, "JSON file for the figures.")
    command_line.run(main)
