"""Training steps and predictions as programs run them, for `sizing.py` and `roofline.py`.

No data are needed, and the devices may be absent TPUs: libtpu's compiler works without them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from etils import epath
from jax.experimental import topologies
from jax.sharding import NamedSharding

from agcnn_jax.config.strategies import Stage, stages
from agcnn_jax.models.agcnn import AGCNN, BRANCHES, init_variables, select_branches
from agcnn_jax.run.recipe import Recipe, make_recipe
from agcnn_jax.run.run import Run
from agcnn_jax.runtime.devices import REPLICATED, SHARDED, device_mesh
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.training.fit import make_train_step
from agcnn_jax.training.predict_step import make_predict_step
from agcnn_jax.training.schedule import Schedule, sgd
from agcnn_jax.training.steps import init_state

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where configs/ is
from agcnn_jax.configs import densenet, resnet

CONFIGS = {"resnet50": resnet, "densenet121": densenet}
STAGES = {"+".join(stage.branches): stage for stage in (*stages("G_L_F"), *stages("GLF"))}
STORED_SIZE = 256
LABELS = 15
Case = dict[str, Any]


def find_devices(platform: str, topology: str | None) -> list[Any]:
    """Return the devices at hand, or describe those of a topology such as v5e:2x2."""
    if topology or platform == "cpu":  # do not touch accelerators
        jax.config.update("jax_platforms", "cpu")
    try:
        if not topology:
            return jax.devices(platform)
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")  # or libtpu looks for TPUs
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", topology.replace(":", "-"))
        return topologies.get_topology_desc(topology, platform="tpu").devices
    except (RuntimeError, ImportError) as error:
        raise UserError(f"no {topology or platform} devices available: {error}") from error


def training_program(case: Case, devices: list[Any]) -> tuple[Any, Any]:
    """Make the training step of a case, and the jitted function that makes its arguments.

    A case has `backbone`, `stage`, `dtype`, `batch_per_device`, and optionally other keys of the
    config.
    """
    experiment, stage = _open(case, devices), STAGES[case["stage"]]
    count = case["batch_per_device"] * len(devices)
    optimizer, rate = sgd(0.01, 10**6, 10.0, momentum=0.9, weight_decay=1e-4)
    schedule = Schedule(stage, count, experiment.config.accumulate, 1, 1, optimizer, rate)

    def arguments() -> Any:
        variables = init_variables(experiment.recipe.model, jax.random.key(0), 224)
        frozen = tuple(branch for branch in BRANCHES if branch not in stage.branches)
        state = init_state(select_branches(variables, stage.branches), optimizer)
        batch = _batch(experiment.recipe, stage, variables, count)
        return state, select_branches(variables, frozen), batch

    at = tuple(NamedSharding(experiment.mesh, spec) for spec in (REPLICATED, REPLICATED, SHARDED))
    return make_train_step(experiment, schedule), jax.jit(arguments, out_shardings=at)


def prediction_program(case: Case, devices: list[Any]) -> tuple[Any, Any]:
    """Make the prediction of all branches for a case, and the function of its arguments."""
    experiment = _open(case, devices)
    shape = (case["batch_per_device"] * len(devices), STORED_SIZE, STORED_SIZE)

    def arguments() -> Any:
        variables = init_variables(experiment.recipe.model, key := jax.random.key(0), 224)
        return variables, jax.random.bits(key, shape, np.uint8)

    at = tuple(NamedSharding(experiment.mesh, spec) for spec in (REPLICATED, SHARDED))
    step = make_predict_step(experiment.recipe, experiment.mesh, BRANCHES)
    return step, jax.jit(arguments, out_shardings=at)


def _open(case: Case, devices: list[Any]) -> Run:
    config = CONFIGS[case["backbone"]].get_config()
    config.update({key: value for key, value in case.items() if key in config})
    recipe = make_recipe(config.to_dict(), LABELS)
    nothing = cast(Any, None)  # programs do not depend on records and split
    return Run(config, epath.Path(), nothing, nothing, recipe, device_mesh(devices))


def _batch(recipe: Recipe, stage: Stage, variables: Any, count: int) -> dict[str, Any]:
    """Make a batch of noise."""
    model: AGCNN = recipe.model
    size, key = recipe.input_size, jax.random.key(0)
    batch: dict[str, Any] = {"labels": np.zeros((count, model.label_count), np.uint8)}
    if "global" in stage.branches:
        batch["image"] = jax.random.bits(key, (count, STORED_SIZE, STORED_SIZE), np.uint8)
        return batch | {"record": np.arange(count, dtype=np.int32)}
    batch["local_images"] = jax.random.uniform(key, (count, size, size), maxval=255.0)
    if "fusion" in stage.branches:  # from the host cropper, like the images
        width = variables["params"]["global"]["head"]["kernel"].shape[0]
        batch["pooled_global"] = jax.random.uniform(key, (count, width))
    return batch
