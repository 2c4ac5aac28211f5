"""Train AG-CNN with PyTorch on a prepared data set, by the recipe of a config, seed by seed.

    python benchmarks/train_twin.py --config configs/demo.py [--workdir W] [--seeds 3]

Trains the twin of the parity tests (strategy G_L_F) with seeds 0 to N-1 on the CPU, scores the best
weights of each branch on the test subset, and writes W/twin/seed_<seed>.json: AUCs as in a run's
auc.json, the seconds of each stage, versions. A seed that has its file is not trained again, so the
same command goes on where it was stopped. benchmarks/outcomes.py compares the files with runs of
`train.py`. On a machine that does other work too, set OMP_WAIT_POLICY=PASSIVE: PyTorch's threads
otherwise burn their cores while they wait for one another. It needs the extra `parity`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
from absl import flags
from etils import epath

sys.path.append(str(Path(__file__).resolve().parents[1]))  # the package need not be installed

import reporting

from agcnn_jax.config import command_line
from agcnn_jax.config.check import check_overrides
from agcnn_jax.config.keys import FIXED, KEYS, SCORED, flatten, is_read
from agcnn_jax.data.records import Records, open_records
from agcnn_jax.data.splits import SUBSETS, Split, make_split
from agcnn_jax.runtime.errors import UserError, packages_of
from agcnn_jax.runtime.storage import read_json, write_json

ONLY = {
    "strategy": "G_L_F",
    "init": "random",
    "dtype": "float32",
    "local_input": "crop",
    "attention.statistic": "max",
    "attention.crop_from": "input",
    "augment.crop": "random_resized",
    "warmup_epochs": 0,
    "learning_rate_decay": "step",
    "learning_rate_scaling": "none",
    "accumulate": 1,
    "max_steps": 0,
}
"""The one value of a key that the twin has."""


def check_twin(config: ml_collections.ConfigDict) -> None:
    """Raise `UserError` unless the twin can train by a config."""
    values = flatten(config.to_dict())
    for key, value in ONLY.items():
        if values[key] != value:
            raise UserError(
                f"config.{key} is {values[key]!r}, which the PyTorch twin does not have; "
                f"set --config.{key}={value}"
            )


def describe_recipe(
    config: ml_collections.ConfigDict, records: Records, split: Split
) -> dict[str, Any]:
    """Return everything but the seed that a result depends on, as JSON values."""
    values = flatten(config.to_dict())
    settings = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in values.items()
        if key != "seed" and KEYS[key].changes in (FIXED, SCORED) and is_read(key, values)
    }
    return {"config": settings, "data": {"fingerprint": records.fingerprint, **split.summary()}}


def differences(one: dict[str, Any], other: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return what differs between two recipes: the values of both by key.

    A key that one of them lacks is newer than it, or not read; its default counts.
    """
    pairs = {}
    for part in ("config", "data"):
        for key in sorted({*one[part], *other[part]}):
            default = KEYS[key].default if part == "config" and key in KEYS else None
            default = list(default) if isinstance(default, tuple) else default
            pair = one[part].get(key, default), other[part].get(key, default)
            if pair[0] != pair[1]:
                pairs[f"{part}.{key}"] = pair
    return pairs


def describe_machine() -> dict[str, Any]:
    """Return what the seconds depend on."""
    import torch

    facts = reporting.describe_machine("torch", "numpy", "scipy", "scikit-learn")
    return {**facts["machine"], "threads": torch.get_num_threads(), **facts["versions"]}


def load(records: Records, indices: np.ndarray) -> Any:
    """Read a subset into memory."""
    import torch
    from twin_training import Subset

    source = records.images_and_labels()
    images = np.stack([source[index]["image"] for index in indices])
    labels = torch.from_numpy(records.label_matrix[indices]).float()
    return Subset(torch.from_numpy(images), labels)


def train_seed(
    seed: int, config: ml_collections.ConfigDict, records: Records, subsets: dict[str, Any]
) -> dict[str, Any]:
    """Train the three stages and score the test subset."""
    import torch
    import twin_training as training

    torch.manual_seed(seed)
    findings = {name: records.labels.index(name) for name in records.findings}
    train, validation, test = (subsets[name] for name in SUBSETS)
    network = training.make_network(config, len(records.labels))
    stages, branches = {}, training.twin.BRANCHES
    for number, branch in enumerate(branches, start=1):
        plan = training.make_plan(config, branch, len(train.images))
        outcome = training.train_stage(network, plan, train, validation, config, findings)
        stages[f"{number}_{branch}"] = outcome
        print(
            f"seed {seed}, {branch}: mean validation AUC {outcome['best_val_auc_mean']:.4f} after "
            f"epoch {outcome['best_epoch']} of {plan.epochs}, {outcome['seconds']:.0f} s",
            flush=True,
        )
    started = time.perf_counter()
    logits = training.predict(network, test.images, config, branches)
    labels = test.labels.numpy()
    scored = {branch: training.score(labels, logits[branch], findings) for branch in branches}
    seconds = round(time.perf_counter() - started, 1)
    return {"seed": seed, "branches": scored, "stages": stages, "test_seconds": seconds}


def train_seeds(config: ml_collections.ConfigDict, workdir: str, seeds: int) -> None:
    """Train seeds 0 to `seeds` - 1 but for those that have their file in `workdir`."""
    data = config.data
    records = open_records(data.dir)
    lists, unlisted = data.lists or None, data.allow_unlisted
    split = make_split(records, data.protocol, data.split_seed, lists, allow_unlisted=unlisted)
    recipe = describe_recipe(config, records, split)
    paths = [epath.Path(workdir) / "twin" / f"seed_{seed}.json" for seed in range(seeds)]
    for path in paths:
        if not path.exists():
            continue
        for key, (old, new) in differences(read_json(path)["recipe"], recipe).items():
            raise UserError(
                f"{path} was made with another recipe: {key} is {old!r} there and {new!r} now; "
                "choose another --workdir"
            )
    subsets: dict[str, Any] = {}
    for seed, path in enumerate(paths):
        if path.exists():
            print(f"seed {seed}: {path} is there")
            continue
        for name in SUBSETS:
            subsets[name] = subsets.get(name) or load(records, getattr(split, name))
        result = train_seed(seed, config, records, subsets)
        machine = {"machine": describe_machine(), "provenance": records.provenance}
        write_json(path, {**result, **machine, "recipe": recipe})
        means = {branch: round(one["mean"], 4) for branch, one in result["branches"].items()}
        print(f"seed {seed}: mean test AUC {means}; {path}", flush=True)


def main() -> None:
    """Parse the flags and train."""
    config, workdir, overrides = command_line.configured()
    if "seed" in overrides:
        raise UserError("--config.seed has no effect here; --seeds N trains seeds 0 to N-1")
    check_overrides(overrides, config)
    check_twin(config)
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise UserError(f"this needs {packages_of('parity')}") from error
    train_seeds(config, workdir, flags.FLAGS.seeds)


if __name__ == "__main__":
    command_line.define_config_flags()
    flags.DEFINE_integer("seeds", 3, "Train seeds 0 to this number less one.", lower_bound=1)
    command_line.run(main)
